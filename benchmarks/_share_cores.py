"""Imported first, so that threads wait as they do under the commands: read once, when the maths library loads."""

from geodino.process import share_cores

share_cores()
