"""What runs where the data is: a silo's training, its memory, and the only way out."""
