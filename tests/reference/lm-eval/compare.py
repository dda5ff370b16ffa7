"""Compares `sqf eval --tasks` with lm-eval (transformers) item by item.

    compare.py SQF MODEL_DIRECTORY TASK_FILES... [--limit N] [--few-shot K] [--max-new N] [--json FILE]

Each file of items becomes a task of lm-eval through a YAML of its own that reads the same .jsonl; lm-eval's samples are
put beside the lines of `sqf eval --items`. Log-likelihoods must agree within 1e-3, choices and generated texts be the
same, perplexity within 1e-4 relative. A choice may differ where the two best scores of one side are closer than the
tolerance; such ties are counted and told. Exit code 1 if anything else differs.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TOLERANCE = 1e-3

# lm-eval's own prompts of these tasks, with the members of our files. Written for lm-eval, not made from ours.
QUESTION = {"output_type": "multiple_choice", "doc_to_text": "{{query.strip()}}\nAnswer:", "doc_to_choice": "choices",
            "doc_to_target": "gold"}
SENTENCE = dict(QUESTION, doc_to_text="query")
TASKS = {
    "arc-challenge": QUESTION,
    "arc-easy": QUESTION,
    "boolq": QUESTION,
    "piqa": QUESTION,
    "copa": SENTENCE,
    "openbookqa": SENTENCE,
    "continuation-mcq": dict(QUESTION, doc_to_text="ctx", doc_to_choice="endings", doc_to_target="label"),
    "hellaswag": dict(QUESTION, doc_to_text="query", doc_to_choice="choices", doc_to_target="label",
                      process_docs="hellaswag"),
    "winogrande": {"output_type": "multiple_choice", "doc_to_text": "gold", "doc_to_choice": "context_options",
                   "doc_to_target": "continuation"},
    "lambada": {"output_type": "loglikelihood", "doc_to_text": "context", "doc_to_target": "{{' ' + continuation}}",
                # of examples: lm-eval's own task leaves it at " " and so writes two blanks in them
                "target_delimiter": ""},
    "gsm8k": {"output_type": "generate_until", "doc_to_text": "Question: {{question}}\nAnswer:",
              "doc_to_target": "{{answer}}"},
}
METRICS = {"multiple_choice": ["acc", "acc_norm", "acc_bytes"], "loglikelihood": ["acc", "perplexity"]}


def task_config(name, kind, path, few_shot, max_new):
    from lm_eval.tasks.hellaswag import utils as hellaswag

    config = dict(TASKS[kind], task=name, dataset_path="json", dataset_kwargs={"data_files": {"test": path}},
                  test_split="test", fewshot_split="test", num_fewshot=few_shot)
    config["fewshot_config"] = {"sampler": "first_n"}
    if config.get("process_docs"):
        config["process_docs"] = hellaswag.process_docs
    if kind == "gsm8k":
        # what lm-eval's own gsm8k.yaml says
        config.update(
            generation_kwargs={"until": ["Question:", "</s>", "<|im_end|>"], "do_sample": False, "temperature": 0.0,
                               "max_gen_toks": max_new},
            metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True,
                          "ignore_punctuation": False,
                          "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"]}],
            filter_list=[{"name": "strict-match", "filter": [
                {"function": "regex", "regex_pattern": "#### (\\-?[0-9\\.\\,]+)"}, {"function": "take_first"}]},
                {"name": "flexible-extract", "filter": [
                    {"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"},
                    {"function": "take_first"}]}])
    else:
        config["metric_list"] = [
            {"metric": m, "aggregation": "perplexity" if m == "perplexity" else "mean",
             "higher_is_better": m != "perplexity"} for m in METRICS[config["output_type"]]]
    return config


def kind_of(name):
    return max((k for k in TASKS if name.startswith(k)), key=len)


def run_lm_eval(model, files, options):
    """Samples of every task by name."""
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from lm_eval.api.task import ConfigurableTask

    torch.manual_seed(0)
    lm = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=options.batch)
    tasks = []
    for path in files:
        name = os.path.basename(path).removesuffix(".jsonl")
        kind = kind_of(name)
        few_shot = options.few_shot if options.few_shot is not None else (5 if kind == "gsm8k" else 0)
        tasks.append(ConfigurableTask(config=task_config(name, kind, path, few_shot, options.max_new)))
    del TaskManager
    return lm_eval.simple_evaluate(model=lm, tasks=tasks, limit=options.limit or None, log_samples=True,
                                   bootstrap_iters=0, verbosity="ERROR")


def run_sqf(sqf, model, files, options, directory):
    items = os.path.join(directory, "items.jsonl")
    command = [sqf, "eval", model, "--json", "-q", "--items", items, "--limit", str(options.limit), "--max-new",
               str(options.max_new)]
    if options.few_shot is not None:
        command += ["--few-shot", str(options.few_shot)]
    for path in files:
        command += ["--tasks", path]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    lines = [json.loads(line) for line in open(items, encoding="utf-8")]
    return {t["name"]: t for t in figures["tasks"]}, {(i["task"], i["item"]): i for i in lines}


def margin(scores):
    best = sorted(scores, reverse=True)
    return best[0] - best[1]


def argmax(scores):
    return max(range(len(scores)), key=lambda i: scores[i])


def compare_options(ours, sample, report):
    sums = [float(r[0][0]) for r in sample["resps"]]
    differences = [abs(a - b) for a, b in zip(sums, ours["log_likelihoods"], strict=True)]
    report["largest"] = max(report["largest"], *differences)
    report["log_likelihoods"] += len(sums)
    if max(differences) > TOLERANCE:
        report["problems"].append(f"item {ours['item']}: log-likelihoods differ by {max(differences)}")
    if "chosen" not in ours:
        greedy = bool(sample["resps"][0][0][1])
        if greedy != ours["greedy"]:
            report["problems"].append(f"item {ours['item']}: greedy {ours['greedy']}, lm-eval {greedy}")
        return
    units = {"chosen": [1] * len(sums), "chosen_norm": ours["characters"], "chosen_bytes": ours["bytes"]}
    for member, lengths in units.items():
        scores = [s / n for s, n in zip(sums, lengths, strict=True)]
        if argmax(scores) != ours[member]:
            if margin(scores) < TOLERANCE / min(lengths):
                report["ties"] += 1
            else:
                report["problems"].append(f"item {ours['item']}: {member} {ours[member]}, lm-eval {argmax(scores)}")


def compare_generation(ours, samples, report):
    strict = next(s for s in samples if s["filter"] == "strict-match")
    flexible = next(s for s in samples if s["filter"] == "flexible-extract")
    theirs = strict["resps"][0][0]
    if theirs != ours["generation"]:
        report["problems"].append(f"item {ours['item']}: text {ours['generation']!r}, lm-eval {theirs!r}")
        return
    report["texts"] += 1
    for sample, member, correct in ((strict, "strict", "correct"), (flexible, "flexible", "correct_flexible")):
        found = ours[member] if ours[member] is not None else "[invalid]"
        if found != sample["filtered_resps"][0]:
            report["problems"].append(f"item {ours['item']}: {member} {found!r}, lm-eval {sample['filtered_resps'][0]!r}")
        if bool(sample["exact_match"]) != ours[correct]:
            report["problems"].append(f"item {ours['item']}: {correct} {ours[correct]}, lm-eval {sample['exact_match']}")


def compare_figures(name, ours, theirs, report):
    for metric in ("acc", "acc_norm", "acc_bytes", "perplexity"):
        value = theirs.get(f"{metric},none")
        if value is None or ours.get(metric) is None or name.startswith("winogrande") and metric != "acc":
            continue
        report[metric] = {"sqf": ours[metric], "lm_eval": value}
        limit = 1e-4 * abs(value) if metric == "perplexity" else report["ties"] / report["items"] + 1e-9
        if not math.isfinite(value) or abs(value - ours[metric]) > limit:
            report["problems"].append(f"{metric} {ours[metric]}, lm-eval {value}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("sqf")
    parser.add_argument("model")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--few-shot", type=int)
    parser.add_argument("--max-new", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json")
    options = parser.parse_args()
    files = [os.path.abspath(f) for f in options.files]
    with tempfile.TemporaryDirectory() as directory:
        os.environ.setdefault("HF_HOME", directory)
        figures, items = run_sqf(options.sqf, options.model, files, options, directory)
        result = run_lm_eval(options.model, files, options)
    reports, bad = {}, False
    for name, samples in result["samples"].items():
        report = reports[name] = {"items": 0, "log_likelihoods": 0, "largest": 0.0, "ties": 0, "texts": 0,
                                  "problems": []}
        by_item = {}
        for sample in samples:
            by_item.setdefault(sample["doc_id"], []).append(sample)
        for index, group in sorted(by_item.items()):
            ours = items[(name, index)]
            report["items"] += 1
            if "generation" in ours:
                compare_generation(ours, group, report)
            else:
                compare_options(ours, group[0], report)
        compare_figures(name, figures[name], result["results"][name], report)
        bad = bad or bool(report["problems"]) or report["items"] != figures[name]["items"]
        print(f"{name}: {report['items']} items, {report['log_likelihoods']} log-likelihoods, largest difference "
              f"{report['largest']:.2e}, {report['texts']} equal texts, {report['ties']} ties, "
              f"{len(report['problems'])} problems", flush=True)
        for problem in report["problems"][:5]:
            print(f"  {problem}")
        for metric in ("acc", "acc_norm", "acc_bytes", "perplexity"):
            if metric in report:
                print(f"  {metric} {report[metric]['sqf']:.10g}, lm-eval {report[metric]['lm_eval']:.10g}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"model": options.model, "limit": options.limit, "tasks": reports}, file, indent=1)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
