"""Conversion of foreign checkpoints, export to other runtimes, and publication on the Hub."""

FORMATS = ("onnx", "int8", "openvino", "sentence_transformers")  # of exports
