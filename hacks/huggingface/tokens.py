"""A tokenizer of the package tokenizers in the place of tiktoken's."""
from pathlib import Path

from tokenizers import Tokenizer

from data import SPECIAL


class Encoding:
    """What the code asks of a tiktoken.Encoding. tokenizer: the text of a tokenizer.json that has
    our special tokens. end: the id of the token that ends an answer."""
    name = "huggingface"

    def __init__(self, tokenizer, end):
        self.state = {"tokenizer": tokenizer, "end": end}  # Encoding(**state) is the same again
        self.tokenizer, self.eot_token = Tokenizer.from_str(tokenizer), end
        self.tokenizer.no_padding()  # a file may ask for either
        self.tokenizer.no_truncation()
        self.tokenizer.encode_special_tokens = True  # no text becomes one, not even its name
        vocabulary = self.tokenizer.get_vocab()
        self.n_vocab = max(vocabulary.values()) + 1
        self._special_tokens = {name: vocabulary[name] for name in SPECIAL}

    def encode_ordinary(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False)


def read_encoding(folder, end):
    """(Encoding, new) of a folder's tokenizer.json, grown by our special tokens. end: the id of its
    end token, or a list of several, of which answers end with the first. new: the ids of those of
    our tokens that it lacked."""
    if end in (None, []):
        raise ValueError("neither config.json nor generation_config.json has an eos_token_id")
    tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    old = tokenizer.get_vocab()
    tokenizer.add_special_tokens(SPECIAL)
    enc = Encoding(tokenizer.to_str(), end[0] if isinstance(end, list) else end)
    return enc, [enc._special_tokens[name] for name in SPECIAL if name not in old]
