"""What the peers run: honest programs as their own documentation has them. Copied into folders of their own."""
