"""Networks that give pictures numbers, read from folders that the user names."""
