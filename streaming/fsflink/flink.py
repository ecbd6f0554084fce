"""The one place that speaks to PyFlink. Its gateway is a JVM of its own, started by the first environment made."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from fsflink.job import MODE, Job

LIB = Path(__file__).parents[1] / "build" / "lib"
"""Flink's jars, our own and the connectors, as `make -C streaming lib` lays them out: the lib folder of a cluster."""


class NotBuilt(RuntimeError):
    """The jars are not there."""


def run(job: Job) -> dict[str, object]:
    """Runs a job: to its end where it collects or is to wait, else until it is submitted. Gives the id of what was.

    Without `execution.target` among the settings it runs in this very process, and ends with it: then wait.

    Raises NotBuilt before `make -C streaming lib`; PyFlink's own errors for statements Flink refuses.
    """
    if not LIB.is_dir():
        raise NotBuilt(f"no jars in {LIB}\n  build them once: make -C streaming lib")
    _point_at_jars()
    from pyflink.java_gateway import get_gateway
    from pyflink.table import EnvironmentSettings, TableEnvironment

    builder = EnvironmentSettings.new_instance()
    settings = builder.in_batch_mode() if job.batch else builder.in_streaming_mode()
    env = TableEnvironment.create(settings.build())
    for name, value in job.settings.items():
        if name == MODE:  # an environment is of one mode from its beginning
            continue
        env.get_config().set(name, value)
    for statement in job.statements:
        env.execute_sql(statement)
    done: dict[str, object] = {}
    if job.inserts:
        together = env.create_statement_set()
        for insert in job.inserts:
            together.add_insert_sql(insert)
        if job.explain is not None:
            Path(job.explain).write_text(together.explain())
            return {"explained": job.explain}
        client = together.execute().get_job_client()
        assert client is not None, "a set of INSERTs is a job"
        done["job"] = str(client.get_job_id())
        if job.wait:
            done["seconds"] = client.get_job_execution_result().result().get_net_runtime() / 1000
    changes = []
    for query in job.collect:
        result = env.execute_sql(query.sql)
        collected = get_gateway().jvm.featurestore.flink.Collected
        changes.append(collected.write(result._j_table_result, query.keys, query.path))
    return done | {"changes": changes}


def _point_at_jars() -> None:
    """Has PyFlink's JVM take our folder of jars. Without a FLINK_HOME it would look for one, and take its own folder."""
    found = find_spec("pyflink")
    if found is None or found.origin is None:
        raise NotBuilt("apache-flink is not installed\n  install it once: uv sync, in streaming/")
    os.environ["FLINK_HOME"] = str(Path(found.origin).parent)
    os.environ["FLINK_LIB_DIR"] = str(LIB)
