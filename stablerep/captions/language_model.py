"""A causal language model of transformers, by path, that continues prompts: sampled, and yet a function of prompt and seed.

Sampling is greedy search over logits with Gumbel noise added (the maximum is then a draw from the softmax), the noise of every row from a
generator of its own. So a row's words do not depend on which other prompts are in the batch, up to the last bits of the logits.

Dimension key: B prompts, T tokens, V vocabulary.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList

from stablerep.errors import CaptionError

TOP_K = 50


class TransformersLanguageModel:
    """See the module.

    Args:
        folder: what save_pretrained wrote, weights as safetensors.
        temperature: of the softmax, above 0.
        max_new_tokens: of a continuation.
        device: auto, cpu, cuda ...

    Raises:
        CaptionError: there is no such model, or its weights are pickles.
    """

    def __init__(self, folder: str, *, temperature: float, max_new_tokens: int, device: str = "auto") -> None:
        path = Path(folder).expanduser()
        if not list(path.glob("*.safetensors")):
            raise CaptionError(
                f"captions.language_model {folder!r}: expected a folder of transformers with weights as .safetensors, found none there; "
                "name the folder that save_pretrained wrote"
            )
        self.name, self._temperature, self._max_new_tokens = path.name, temperature, max_new_tokens
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(chosen if device == "auto" else device)
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True, padding_side="left")
            model: Any = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise CaptionError(f"captions.language_model {folder!r}: cannot be loaded ({error}); download the model again") from error
        self._tokenizer, self._model = tokenizer, model.to(self._device).eval()
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)

    def complete(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """A continuation of each prompt."""
        tokens = self._tokenizer(list(prompts), padding=True, return_tensors="pt", return_token_type_ids=False).to(self._device)
        noise = _Noise([torch.Generator().manual_seed(seed) for seed in seeds], self._temperature)
        with torch.inference_mode():
            sequences_BT = self._model.generate(
                **tokens,
                do_sample=False,
                num_beams=1,
                max_new_tokens=self._max_new_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList([noise]),
            )
        return self._tokenizer.batch_decode(sequences_BT[:, tokens["input_ids"].shape[1] :], skip_special_tokens=True)


class _Noise(LogitsProcessor):
    """Keeps the best logits, divides by the temperature and adds each row's own Gumbel noise."""

    def __init__(self, generators: list[torch.Generator], temperature: float) -> None:
        self._generators, self._temperature = generators, temperature

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        logits_BV: Tensor = scores.float()
        lowest_B1 = logits_BV.topk(min(TOP_K, logits_BV.shape[1]), dim=1).values[:, -1:]
        uniform_BV = torch.stack([torch.rand(logits_BV.shape[1], generator=generator) for generator in self._generators])
        gumbel_BV = -torch.log(-torch.log(uniform_BV.clamp(1e-20, 1 - 1e-7)))
        noisy_BV = logits_BV / self._temperature + gumbel_BV.to(logits_BV.device)
        return noisy_BV.masked_fill(logits_BV < lowest_B1, float("-inf"))
