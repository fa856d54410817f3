"""Ten questions that people ask of inference graphs, as SQL over the tables of any run with graphs of classes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A question and the statement that answers it."""

    question: str
    sql: str


EXAMPLES = (
    Example(
        "What are the strongest words of a class, and where are they best seen?",
        """SELECT n.layer, n.word, n.score, n.dominant_name, e.image, e.y, e.x
FROM nodes n JOIN exemplars e USING (scope, layer, word)
WHERE n.graph = (SELECT min(graph) FROM nodes WHERE graph LIKE 'class:%') AND e.rank = 0
ORDER BY n.layer DESC, n.rank""",
    ),
    Example(
        "Which words stand in the graphs of several classes?",
        """SELECT scope, layer, word, count(DISTINCT graph) AS classes, list(DISTINCT graph ORDER BY graph) AS graphs
FROM nodes WHERE graph LIKE 'class:%' AND layer <> 'output'
GROUP BY ALL HAVING count(DISTINCT graph) > 1 ORDER BY classes DESC, layer, word LIMIT 20""",
    ),
    Example(
        "Which words speak for the wrong class in a misclassified image?",
        """SELECT n.graph, i.label_name, i.predicted_name, n.layer, n.word, n.score, n.dominant_name
FROM nodes n JOIN images i ON n.graph = 'image:' || i.image
WHERE i.label <> i.predicted AND n.dominant_class = i.predicted AND n.layer <> 'output'
ORDER BY n.score DESC LIMIT 20""",
    ),
    Example(
        "Which edges differ most between two classes?",
        """WITH own AS (
  SELECT scope, upper_layer, upper_word, lower_layer, lower_word, graph, relative_frequency
  FROM edges WHERE graph LIKE 'class:%' AND upper_layer <> 'output'
)
SELECT a.graph AS one, b.graph AS other, upper_layer, upper_word, lower_layer, lower_word,
       a.relative_frequency - b.relative_frequency AS difference
FROM own a JOIN own b USING (scope, upper_layer, upper_word, lower_layer, lower_word)
WHERE a.graph < b.graph ORDER BY abs(difference) DESC LIMIT 20""",
    ),
    Example(
        "Which images have a graph unlike that of the class they are taken for?",
        """WITH mine AS (
  SELECT i.image, 'class:' || i.predicted AS class_graph, n.scope, n.layer, n.word
  FROM nodes n JOIN images i ON n.graph = 'image:' || i.image WHERE n.layer <> 'output'
)
SELECT m.image, m.class_graph, count(*) AS words, count(c.word) AS shared, count(c.word) / count(*) AS share
FROM mine m LEFT JOIN nodes c
  ON c.graph = m.class_graph AND c.scope = m.scope AND c.layer = m.layer AND c.word = m.word
GROUP BY ALL ORDER BY share, m.image LIMIT 20""",
    ),
    Example(
        "What is confused, and which words do both classes use?",
        """WITH confused AS (
  SELECT label, predicted, count(*) AS images FROM images
  WHERE split = 'validation' AND label <> predicted GROUP BY ALL ORDER BY images DESC, label, predicted LIMIT 20
)
SELECT c.label, c.predicted, c.images, count(a.word) AS shared_words
FROM confused c
LEFT JOIN nodes a ON a.graph = 'class:' || c.label AND a.layer <> 'output'
  AND EXISTS (SELECT 1 FROM nodes b WHERE b.graph = 'class:' || c.predicted
              AND b.scope = a.scope AND b.layer = a.layer AND b.word = a.word)
GROUP BY ALL ORDER BY c.images DESC, c.label, c.predicted""",
    ),
    Example(
        "Which words are pure, but in the graph of no class?",
        """SELECT w.scope, w.layer, w.word, w.dominant_name, w.dominant_share, w.images
FROM words w ANTI JOIN (SELECT * FROM nodes WHERE graph LIKE 'class:%') n USING (scope, layer, word)
WHERE w.layer <> 'output' ORDER BY w.dominant_share DESC NULLS LAST, w.images DESC LIMIT 20""",
    ),
    Example(
        "Which classes are alike, by the words of their graphs (Jaccard)?",
        """WITH used AS (
  SELECT DISTINCT scope, graph, layer, word FROM nodes WHERE graph LIKE 'class:%' AND layer <> 'output'
), sizes AS (SELECT scope, graph, count(*) AS n FROM used GROUP BY ALL),
shared AS (
  SELECT scope, a.graph AS one, b.graph AS other, count(*) AS n
  FROM used a JOIN used b USING (scope, layer, word) WHERE a.graph < b.graph GROUP BY ALL
)
SELECT s.scope, s.one, s.other, s.n AS shared, s.n / (a.n + b.n - s.n) AS jaccard
FROM shared s JOIN sizes a ON a.scope = s.scope AND a.graph = s.one
JOIN sizes b ON b.scope = s.scope AND b.graph = s.other ORDER BY jaccard DESC, one, other LIMIT 20""",
    ),
    Example(
        "Where in the window of the upper word does the lower one sit?",
        """WITH cells AS (
  SELECT graph, scope, upper_layer, upper_word, lower_layer, lower_word, width, row_offset, column_offset,
         unnest(counts) AS n, unnest(inside) AS m, generate_subscripts(counts, 1) - 1 AS place
  FROM heatmaps WHERE upper_layer <> 'output'
)
SELECT graph, upper_layer, upper_word, lower_layer, lower_word,
       arg_max(place // width + row_offset, n / m) AS row_at,
       arg_max(place % width + column_offset, n / m) AS column_at, max(n / m) AS share
FROM cells WHERE m > 0 GROUP BY ALL ORDER BY share DESC LIMIT 20""",
    ),
    Example(
        "What was nearly chosen: which pairs have high log ratios but no arrow?",
        """SELECT p.upper_layer, p.upper_word, p.lower_layer, p.lower_word, p.count, p.log_ratio
FROM pairs p SEMI JOIN (SELECT * FROM nodes WHERE graph LIKE 'class:%') u
  ON u.scope = p.scope AND u.layer = p.upper_layer AND u.word = p.upper_word
ANTI JOIN (SELECT * FROM nodes WHERE graph LIKE 'class:%') l
  ON l.scope = p.scope AND l.layer = p.lower_layer AND l.word = p.lower_word
WHERE p.class IS NULL ORDER BY p.count * p.log_ratio DESC LIMIT 20""",
    ),
)
