"""The studio: draws pictures with FLUX. The only room that imports torch and diffusers; it runs in worker processes.

`worker` takes jobs from a pipe and sends events back; `engine` draws one generation, in FLUX's four stages:

    encode      text          the prompt to embeddings
    prepare     conditions    noise, schedule and whatever a kind of generation puts beside them
    denoise     denoise       the loop, the same for every kind
    decode      decode        latents to pixels

after which `finish` brings the pixels to the asked size and file format. Nothing here knows of databases, storage, HTTP
or accounts.
"""
