"""Slow twin of gmm_ops.graphs.exemplars: sort everything, in plain loops."""

from __future__ import annotations


def exemplars(words, posteriors, log_joints, images, per_word):
    """Nested lists (N, H, W) in; {word: [(image, y, x, posterior, log_joint), ...]} out."""
    columns = {}
    for n, image in enumerate(images):
        for y, row in enumerate(words[n]):
            for x, word in enumerate(row):
                if word < 0:
                    continue
                key = (-posteriors[n][y][x], -log_joints[n][y][x], image, y, x)
                columns.setdefault(word, []).append(key)
    chosen = {}
    for word, keys in columns.items():
        seen, rows = set(), []
        for key in sorted(keys):
            if key[2] not in seen and len(rows) < per_word:
                seen.add(key[2])
                rows.append((key[2], key[3], key[4], -key[0], -key[1]))
        chosen[word] = rows
    return chosen
