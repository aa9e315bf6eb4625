"""What a softmax metric needs of logits over the whole vocabulary, without the logits."""
