#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""make - what transformers' apply_chat_template makes of some conversations, in the forms that dsrun has.

    make.py          writes cases.json beside itself; made with transformers 4.46.3 and tokenizers 0.20.3

Tokenizers are those of ../tokenizers with the special tokens that a form needs added behind their vocabulary. TEMPLATES are the
chat templates of the models that forms are known by, a default system message left out; what is trained on is what stands
between generation marks, which are put around messages of the assistant and what ends them.
"""
import json
import pathlib
import tempfile

HERE = pathlib.Path(__file__).resolve().parent

# form: base tokenizer, tokens that it lacks, variables of the template, the template, what is put between marks
TEMPLATES = {
    "chatml": ("qwen", ["<|im_start|>", "<|im_end|>"], {},
               "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}",
               "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}"
               "{{message['content'] + '<|im_end|>'}}{% endgeneration %}{% else %}{{message['content'] + '<|im_end|>'}}{% endif %}{{'\n'}}{% endfor %}"),
    "llama3": ("llama3", ["<|start_header_id|>", "<|end_header_id|>"], {"bos_token": "<|begin_of_text|>"},
               "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + "
               "'<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
               "{% endif %}{{ content }}{% endfor %}",
               "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
               "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
               "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"),
    "mistral": ("mistral", [], {"bos_token": "<s>", "eos_token": "</s>"},
                "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception("
                "'Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}"
                "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
                "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
                "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
                "{% else %}{% generation %}{{ message['content'] + eos_token}}{% endgeneration %}{% endif %}{% endfor %}"),
    "gemma": ("llama2", ["<bos>", "<start_of_turn>", "<end_of_turn>"], {"bos_token": "<bos>"},
              "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
              "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must "
              "alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
              "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}",
              "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<start_of_turn>model\n' }}{% generation %}"
              "{{ message['content'] | trim + '<end_of_turn>' }}{% endgeneration %}{{ '\n' }}{% else %}"
              "{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endif %}{% endfor %}"),
    "zephyr": ("mistral", [], {"eos_token": "</s>"},
               "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
               "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
               "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% endfor %}",
               "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
               "{{ message['content'] + eos_token }}{% endgeneration %}{% else %}{{ message['content'] + eos_token }}{% endif %}{{ '\n' }}{% endfor %}"),
}


def talk(*texts, system=None):
    start = [] if system is None else [{"role": "system", "content": system}]
    return start + [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


TALKS = [
    talk("What is the capital of France?", "Paris."),
    talk("Hi", "Hello, how can I help?", "Sing", "La la la", "More", "No."),
    talk("Who are you?", "A model.", system="Be brief."),
    talk("  spaces around  ", "  and here, too \n"),
    talk("\n\nlines", "\n\nin front", "again", "\nonce"),
    talk("caf\u00e9 \u4f60\u597d \U0001f600", "\u3000wide\u00a0white\u2003space \u4f60\u597d\u2028"),
    talk("a question that is last", "", "and one more"),
    talk("one </s> <|im_end|> two", "three <|eot_id|> four <end_of_turn> five"),
]


def derived(base, added):
    """The tokenizer.json with more tokens: what tests make again from the same names."""
    shape = json.loads((HERE.parent / "tokenizers" / f"{base}.json").read_text(encoding="utf-8"))
    first = 1 + max([*shape["model"]["vocab"].values(), *(token["id"] for token in shape["added_tokens"])])
    shape["added_tokens"] += [{"id": first + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                               "special": True} for i, text in enumerate(added)]
    return shape


def main():
    import transformers
    out = {}
    for name, (base, added, words, template, marked) in TEMPLATES.items():
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            json.dump(derived(base, added), file)
            file.flush()
            tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=file.name, **words)
        cases = []
        for messages in TALKS:
            if name in ("mistral", "gemma") and messages[0]["role"] == "system":
                continue
            ids = tokenizer.apply_chat_template(messages, chat_template=template)
            both = tokenizer.apply_chat_template(messages, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True)
            assert ids == both["input_ids"], (name, messages)
            cases.append({"messages": messages, "ids": ids, "mask": both["assistant_masks"]})
        out[name] = {"tokenizer": base, "added": added, "cases": cases}
    text = json.dumps(out, ensure_ascii=True).replace('{"messages"', '\n{"messages"').replace('"tokenizer"', '\n"tokenizer"')
    (HERE / "cases.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
