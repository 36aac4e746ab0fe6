"""Export of recognizers for the runtime sherpa-onnx."""
