"""Captions: read, clean, deduplicate, give stable ids; a prompt set cut in equal units of work."""

from stablerep.captions.clean import clean_captions
from stablerep.captions.prompt_set import lane_shards, read_prompt_set, shard_captions, write_prompt_set
from stablerep.captions.read import read_captions

__all__ = ["clean_captions", "lane_shards", "read_captions", "read_prompt_set", "shard_captions", "write_prompt_set"]
