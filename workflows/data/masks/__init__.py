"""Masks of concepts on the photos of a run: COCO, boxes, Broden, label pictures, colour pictures."""
