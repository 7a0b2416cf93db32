"""Random numbers without state: a 64-bit hash of what they are for.

The same (seed, step, caption, image) gives the same numbers on any rank, in any batch, in any worker and on any device, which a stream
of a generator cannot do. The mixing function is splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014);
int64 tensors wrap around, so the arithmetic is exact modulo 2^64. Not for secrets.

Dimension key: N keys, K numbers per key.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor

_MASK = (1 << 64) - 1
UNIFORM_BITS = 24  # what a float32 holds exactly


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FACTOR_1 = _signed(0xBF58476D1CE4E5B9)
_FACTOR_2 = _signed(0x94D049BB133111EB)


def mix(state: Tensor) -> Tensor:
    """The splitmix64 output function of int64 states, elementwise; a bijection of the 64-bit words."""
    state = (state ^ _shift(state, 30)) * _FACTOR_1
    state = (state ^ _shift(state, 27)) * _FACTOR_2
    return state ^ _shift(state, 31)


def fold(*parts: Tensor | int) -> Tensor:
    """One int64 key of several integers (tensors broadcast); order matters, so (1, 2) and (2, 1) differ."""
    device = next((part.device for part in parts if isinstance(part, Tensor)), torch.device("cpu"))
    key: Tensor | int = 0
    for part in parts:
        if isinstance(key, int) and isinstance(part, int):
            key = _mix_int(((key ^ part) + _GAMMA) & _MASK)
        else:
            key = mix((_word(key, device) ^ _word(part, device)) + _GAMMA)
    return _word(key, device)


def words(key_N: Tensor, num: int) -> Tensor:
    """`num` 64-bit words of each key: int64 [N, num]; the first ones do not depend on `num`."""
    counter_K = torch.arange(1, num + 1, dtype=torch.int64, device=key_N.device) * _GAMMA
    return mix(key_N[..., None] + counter_K)


def uniforms(key_N: Tensor, num: int) -> Tensor:
    """`num` numbers of each key, uniform in [0, 1) with 24 bits: float32 [N, num], equal on every device."""
    return _shift(words(key_N, num), 64 - UNIFORM_BITS).to(torch.float32) * (1.0 / (1 << UNIFORM_BITS))


def below(word: Tensor, limit: int) -> Tensor:
    """Words to integers 0 to limit - 1 (the modulo bias is below limit / 2^63)."""
    return _shift(word, 1) % limit


def _word(part: Tensor | int, device: torch.device) -> Tensor:
    return part if isinstance(part, Tensor) else torch.tensor(_signed(part), dtype=torch.int64, device=device)


def _mix_int(state: int) -> int:
    """`mix` of one unsigned word; plain integers are ten times as fast as tensors without elements."""
    state = (state ^ (state >> 30)) * _FACTOR_1 & _MASK
    state = (state ^ (state >> 27)) * _FACTOR_2 & _MASK
    return state ^ (state >> 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift; int64 tensors shift arithmetically, so the copies of the sign bit are cleared."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
