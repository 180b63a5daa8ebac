"""What the server keeps: projects, uploads, sessions, and who may read which file."""
