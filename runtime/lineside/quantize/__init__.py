"""INT8 artefacts of a float model, and what they cost: `lineside quantize`. Nothing at the edge imports it.

pictures -> graph + ranges + qdq (ONNX), ir (OpenVINO), tflite -> measure -> search -> report.
"""
