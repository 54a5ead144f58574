"""Training of sequence models on formal languages, group words, programs and nested lists."""
