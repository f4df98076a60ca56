"""What stands between the commands and a shell: words in, help, completion, one line for a mistake, streams."""
