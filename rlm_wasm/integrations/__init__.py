"""rlm_wasm inside other programs: in their own words, by their own protocols.

Nothing in rlm_wasm but the command line knows of what stands here, and none of it is imported before it is asked for.
"""
