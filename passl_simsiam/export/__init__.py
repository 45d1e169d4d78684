"""A trained network as a model that other programs run without this package: Paddle Inference and ONNX."""
