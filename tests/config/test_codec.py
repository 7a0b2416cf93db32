import dataclasses
import json
import re

import pytest

from stablerep.config import RECIPES, Recipe, fingerprint, load_recipe, parse_overrides, recipe_json
from stablerep.errors import ConfigError


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_and_is_what_was_written(name: str) -> None:
    assert load_recipe(name) == RECIPES[name]
    assert json.loads(recipe_json(RECIPES[name]))["name"] == name


def test_overrides_reach_nested_keys_and_keep_types() -> None:
    recipe = load_recipe("quickstart", "pretrain.trunk.depth=2 probe.labels_per_class=[5,-1] pretrain.lr=1 captions.source='a b.csv'")
    assert recipe.pretrain.trunk.depth == 2
    assert recipe.probe.labels_per_class == (5, -1)
    assert isinstance(recipe.pretrain.lr, float)
    assert recipe.captions.source == "a b.csv"


def test_later_overrides_win_and_strings_that_look_like_numbers_stay_strings() -> None:
    recipe = load_recipe("quickstart", "captions.seed=1 captions.seed=2 generator.revision=12")
    assert recipe.captions.seed == 2
    assert recipe.generator.revision == "12"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("pretrain.num_step=1", "unknown key 'pretrain.num_step', did you mean 'pretrain.num_steps'"),
        ("pretrian.num_steps=1", "unknown key 'pretrian'.*did you mean 'pretrain'"),
        ("pretrain=1", "'pretrain' is a section"),
        ("name=x", "unknown key 'name'"),
        ("pretrain.num_steps=many", "pretrain.num_steps: expected int, found 'many'"),
        ("pretrain.num_steps=1.5", "pretrain.num_steps: expected int, found 1.5"),
        ("pretrain.num_steps", "expected section.key=value"),
        ("captions.source='x", "expected section.key=value words"),
        ("generate.images_per_caption=1", "expected 2 or more"),
        ("pretrain.images_per_caption=7", "at most generate.images_per_caption=6, found 7"),
        ("pretrain.captions_per_batch=63", "multiple of num_processes=2, found 63"),
        ("pretrain.temperature=0", "expected above 0"),
        ("generate.scheduler=fast", "expected one of ddim"),
        ("captions.num_lanes=17", "expected 1 to 16"),
        ("deploy.port=70000", "0 \\(any free\\) to 65535"),
        ("pretrain.text_weight=0 pretrain.image_weight=0", "nothing to learn"),
        ("probe.probes=knn", "expected linear among them"),
        ("probe.probes=linear,svm", "expected one of linear, linear_bn, knn, logistic, few_shot, zero_shot, found 'svm'"),
        ("generator.fit=1", "expected bool, found 1"),
        ("launch.backend=slurm", "expected one of local, trainjob, volcano"),
        ("launch.gpus_per_process=2", "expected 0 or 1, found 2"),
        ("launch.max_preemptions=-1", "launch.max_preemptions: expected 0 or more"),
        ("launch.queue_timeout_seconds=0", "launch.queue_timeout_seconds: expected 1 or more"),
        ("launch.node_selector==gpu", "expected key=value, found '=gpu'"),
        ("launch.tolerations=nvidia.com/gpu", "expected key.*:effect"),
        ("launch.tolerations=nvidia.com/gpu:Sometimes", "expected key.*:effect"),
        ("launch.tolerations=:NoSchedule", "expected key.*:effect"),
        ("deploy.autoscaler=keda", "expected none with deploy.backend=local"),
        ("deploy.backend=blue_green deploy.autoscaler=knative", "expected knative with knative_canary"),
        ("deploy.backend=knative_canary deploy.autoscaler=keda deploy.canary_percents=[]", "expected knative with knative_canary"),
        ("deploy.backend=blue_green deploy.min_replicas=0", "only deploy.backend=knative_canary scales to zero"),
        ("deploy.max_replicas=0", "expected min_replicas or more, found 0"),
        ("deploy.backend=standard_canary deploy.prometheus_url=http://p", "deploy.gateway: expected namespace/name"),
        ("deploy.backend=knative_canary", "deploy.prometheus_url: expected the URL"),
        ("deploy.canary_percents=[50,25]", "expected rising numbers from 1 to 99"),
        ("deploy.canary_percents=[100]", "expected rising numbers from 1 to 99"),
    ],
)
def test_bad_overrides_say_what_was_expected(overrides: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", overrides)


def test_unknown_recipe_names_the_closest() -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'quikstart', did you mean 'quickstart'"):
        load_recipe("quikstart")


def test_fingerprint_depends_on_values_only() -> None:
    recipe = load_recipe("quickstart")
    assert fingerprint(recipe) == fingerprint(load_recipe("quickstart", "pretrain.seed=0"))
    assert fingerprint(recipe) != fingerprint(load_recipe("quickstart", "pretrain.seed=1"))


def test_parse_overrides_reads_json_or_strings() -> None:
    assert parse_overrides('a.b=1 c=true d=x e="[1, 2]"') == [("a.b", 1), ("c", True), ("d", "x"), ("e", [1, 2])]


def test_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_recipe("quickstart").captions.seed = 3  # type: ignore[misc]


def test_every_key_is_read_somewhere() -> None:
    """Trap 21 of the reference: flags that nothing reads."""
    from pathlib import Path

    package = Path(__file__).resolve().parents[2] / "stablerep"
    text = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py") if path.parent.name != "config")
    keys = {field.name for section in dataclasses.fields(Recipe) for field in _fields(section)}
    assert sorted(key for key in keys if not re.search(rf"\.{key}\b|\b{key}=|\"{key}\"", text)) == []


def _fields(section: dataclasses.Field[object]) -> list[dataclasses.Field[object]]:
    value = getattr(load_recipe("quickstart"), section.name)
    if not dataclasses.is_dataclass(value):
        return []
    children = [getattr(value, field.name) for field in dataclasses.fields(value)]
    nested = [inner for child in children if dataclasses.is_dataclass(child) for inner in dataclasses.fields(child)]
    return [*dataclasses.fields(value), *nested]


def test_what_a_cluster_sets_lies_below_the_users_words() -> None:
    cluster = "launch.backend=trainjob launch.queue=gpus deploy.backend=blue_green"
    recipe = load_recipe("quickstart", "launch.queue=mine", cluster=cluster)
    assert (recipe.launch.backend, recipe.launch.queue, recipe.deploy.backend) == ("trainjob", "mine", "blue_green")


def test_a_cluster_sets_nothing_that_decides_a_result() -> None:
    with pytest.raises(ConfigError, match=r"STABLEREP_CLUSTER: expected keys of launch and deploy, found 'pretrain.num_steps'"):
        load_recipe("quickstart", cluster="pretrain.num_steps=1")


def test_steps_are_judged_only_where_traffic_moves_in_steps() -> None:
    assert not load_recipe("quickstart", "deploy.backend=blue_green").deploy.has_steps
    assert not load_recipe("quickstart", "deploy.backend=knative_canary deploy.canary_percents=[]").deploy.has_steps
    assert load_recipe("quickstart", "deploy.backend=knative_canary deploy.prometheus_url=http://prometheus").deploy.has_steps


def test_tolerations_are_written_as_kubectl_writes_taints() -> None:
    recipe = load_recipe("quickstart", "launch.tolerations=nvidia.com/gpu:NoSchedule,spot=true:NoExecute deploy.canary_percents=1,10")
    assert recipe.launch.tolerations == ("nvidia.com/gpu:NoSchedule", "spot=true:NoExecute")
    assert recipe.deploy.canary_percents == (1, 10)
