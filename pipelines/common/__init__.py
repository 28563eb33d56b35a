"""What several pipelines share: user errors and image encoders. It imports no other pipeline."""
