"""Imported before a model is made: transformers computes in float64, on one thread. It would compute the probabilities of some
families, norms, angles, and positions that are interpolated, in float32."""
import torch

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

wide = lambda x: x if x.is_floating_point() else x.double()
softmax, to, arange = torch.nn.functional.softmax, torch.Tensor.to, torch.arange
torch.nn.functional.softmax = lambda x, *args, dtype=None, **kwargs: softmax(x, *args, **kwargs)
torch.Tensor.float = wide
torch.Tensor.to = lambda x, *args, **kwargs: (
    wide(x) if args == (torch.float32,) or kwargs.get("dtype") == torch.float32 else to(x, *args, **kwargs))
torch.arange = lambda *args, dtype=None, **kwargs: arange(
    *args, dtype=torch.float64 if dtype == torch.float32 else dtype, **kwargs)
