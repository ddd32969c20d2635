"""Delete training samples from a trained torch model."""

try:
    import torch as _torch
except ImportError as error:
    raise ImportError("codec.unlearn needs torch and safetensors: pip install 'codec[unlearn]'") from error

del _torch
