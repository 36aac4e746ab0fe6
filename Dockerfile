# Trains on the built-in corpus, on CPUs:
#
#     docker build -t streamnest .
#     docker run --rm -v "$PWD/logs:/work/logs" streamnest
#
# Arguments after the name of the image are another command: docker run --rm streamnest presets
FROM python:3.12-slim

COPY . /source
RUN python -m pip install --no-cache-dir --constraint /source/constraints.txt '/source[export]' && rm -r /source

WORKDIR /work
ENTRYPOINT ["streamnest"]
CMD ["train", "masking=causal", "encoder=lookahead40"]
