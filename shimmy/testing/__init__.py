"""The conformance kit: what tests of architectures, quant types and engines are made of.

Third parties and shimmy's own tests use the very same; docs/testing.md tells how. The classes need pytest,
which shimmy itself does not; everything else needs only shimmy.
"""
