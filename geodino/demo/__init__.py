"""What `geodino demo` needs beside the commands it runs: imagery from installed packages, a second date, a page."""
