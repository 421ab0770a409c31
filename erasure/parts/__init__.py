"""What an erasure is made of: changes of weights, prompts, gates. torch only."""
