"""Self-contained HTML that people look at: in the Kubeflow UI, in the final report, from a file."""

from stablerep.report.page import body_of, escape, image_tag, page, table

__all__ = ["body_of", "escape", "image_tag", "page", "table"]
