"""Real encoders and real photographs from packages alone: `make real` (docs/real.md).

packages ──> teachers   two encoders' files as plug-ins read them
         └─> originals  photographs, cut-outs, clip art; each on one side, to learn from or to be measured on
                ├─> pictures  what is distilled on, without labels, packed as a beton
                └─> sets      what is measured on: classes, masks, depth
students: recipes/real.yaml and its variants ──> table: teachers and students, docs/real.md's numbers
"""
