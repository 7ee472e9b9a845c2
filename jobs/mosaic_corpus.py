r"""Compose a corpus into mosaics (Mosaic-IT).

On a cluster:
    ray job submit --working-dir . -- python jobs/mosaic_corpus.py \
        --input s3://lake/sft/ --output s3://lake/mosaic/v1 --tokenizer T
On one machine, nothing started first:
    python jobs/mosaic_corpus.py --input data/ --output out --tokenizer T
"""

from mosaic_ray.cli import main

if __name__ == "__main__":
    main()
