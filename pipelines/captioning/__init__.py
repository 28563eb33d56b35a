"""Image captioning by consensus of several multimodal models, checked against the image."""
