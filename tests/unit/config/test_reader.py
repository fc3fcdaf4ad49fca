"""What a right file comes to: defaults, what is derived, what the environment says."""

from __future__ import annotations

import os

import pytest

from procman.cli.endpoint import in_file
from procman.config import read
from procman.config.places import default_endpoint, postgres_socket_dir
from procman.core.channels import Channel
from procman.core.spec import (
    Backoff,
    CronWork,
    DatabaseSpec,
    ExecWork,
    HttpWork,
    JobQueue,
    JobrunnerWork,
    Kind,
    Limits,
    LongpollingWork,
    MemoryMetric,
    PassedSocket,
    PoolSpec,
    PostgresWork,
    Reload,
    TcpAddress,
    UnixAddress,
)

HTTP = '[pools.http]\nkind = "http"\napp = "shop:application"\nbind = "127.0.0.1:8069"\n'
DATABASE = '[database]\nurl = "postgresql:///shop"\n'
ADDRESS = TcpAddress(host="127.0.0.1", port=8069)


@pytest.fixture
def directory(short_path):
    return str(short_path)


@pytest.fixture
def reading(short_path):
    def read_text(text, **environ):
        file = short_path / "procman.toml"
        file.write_text(text, encoding="utf-8")
        return read(str(file), environ)

    return read_text


def test_the_shortest_file(reading, directory):
    spec = reading(HTTP)
    assert spec.source == f"{directory}/procman.toml"
    assert spec.state_dir == f"{directory}/var"
    assert spec.control == (f"ipc://{directory}/var/control.sock",)
    assert spec.events == (f"ipc://{directory}/var/events.sock",)
    assert (spec.dashboard, spec.log_format, spec.stop_timeout, spec.database) == ("", "text", 30.0, None)
    work = HttpWork(app="shop:application", binds=(ADDRESS,))
    assert spec.pools == (PoolSpec(name="http", kind=Kind.HTTP, work=work, working_dir=directory),)


def test_a_relative_path_of_the_file_itself(short_path, monkeypatch):
    (short_path / "procman.toml").write_text(HTTP)
    monkeypatch.chdir(short_path)
    spec = read("procman.toml", {})
    assert (spec.source, spec.state_dir) == (f"{short_path}/procman.toml", f"{short_path}/var")


def test_every_key_of_a_pool(reading, directory, short_path):
    (short_path / "shop.env").write_text("A=from file\nB=from file\n")
    spec = reading(
        """
        [pools.other]
        kind = "exec"
        command = ["true"]

        [pools.http]
        kind = "http"
        app = "shop.wsgi:make_app()"
        bind = ["[::1]:80", "unix:run/http.sock", "fd:http"]
        workers = 3
        threads = 1
        keepalive = 0
        header_timeout = "2s"
        max_body = "1MiB"
        body_buffer = "1KiB"
        autostart = false
        essential = true
        depends_on = "other"
        start_timeout = "1m"
        stop_timeout = "2m"
        stop_signal = "SIGINT"
        kill_timeout = "500ms"
        max_restarts = 7
        restart_window = "3m"
        working_dir = "app"
        env_file = "shop.env"
        env = { B = "from env", C = "${HOME}/c" }
        user = 0
        group = "0"
        umask = "027"
        nice = 5
        rlimits = { nofile = 4096, core = "unlimited" }
        backoff = { first = 1, factor = 1.5, most = "10s", lived = "1s" }
        recycle_at_once = 3
        reload = { surge = 2, max_unavailable = 3, canary = false, delay = "4s" }

        [pools.http.limits]
        memory_soft = "640MiB"
        memory_hard = "768MiB"
        memory_metric = "pss"
        time_cpu = "60s"
        time_real = "none"
        requests = 8192
        requests_jitter = 100
        age = "2h"
        age_jitter = "5m"
        """,
        HOME="/home/shop",
    )
    assert spec.pool("http") == PoolSpec(
        name="http",
        kind=Kind.HTTP,
        work=HttpWork(
            app="shop.wsgi:make_app()",
            binds=(
                TcpAddress(host="::1", port=80),
                UnixAddress(path=f"{directory}/run/http.sock"),
                PassedSocket(name="http"),
            ),
            keepalive=0.0,
            header_timeout=2.0,
            max_body=2**20,
            body_buffer=1024,
        ),
        workers=3,
        limits=Limits(
            memory_soft=640 * 2**20,
            memory_hard=768 * 2**20,
            memory_metric=MemoryMetric.PSS,
            time_cpu=60.0,
            requests=8192,
            requests_jitter=100,
            age=7200.0,
            age_jitter=300.0,
        ),
        autostart=False,
        essential=True,
        depends_on=("other",),
        start_timeout=60.0,
        stop_timeout=120.0,
        stop_signal="INT",
        kill_timeout=0.5,
        backoff=Backoff(first=1.0, factor=1.5, most=10.0, lived=1.0),
        max_restarts=7,
        restart_window=180.0,
        reload=Reload(surge=2, max_unavailable=3, canary=False, delay=4.0),
        recycle_at_once=3,
        working_dir=f"{directory}/app",
        env=(("A", "from file"), ("B", "from env"), ("C", "/home/shop/c")),
        user="root",
        group="root",
        umask=0o27,
        nice=5,
        rlimits=(("nofile", 4096), ("core", -1)),
    )


def test_the_other_kinds(reading):
    spec = reading(
        DATABASE
        + HTTP
        + """
        [pools.cron]
        kind = "cron"
        app = ["shop.tasks", "shop.reports"]

        [pools.jobs]
        kind = "jobrunner"

        [pools.push]
        kind = "gevent-longpolling"
        bind = "127.0.0.1:8072"
        poll_timeout = 10

        [pools.cache]
        kind = "exec"
        command = ["redis-server", "--port", "0"]
        ready = "notify"
        """
    )
    assert [pool.work for pool in spec.pools[1:]] == [
        CronWork(modules=("shop.tasks", "shop.reports")),
        JobrunnerWork(target="http", addresses=(ADDRESS,), reserve=1),
        LongpollingWork(app=None, binds=(TcpAddress(host="127.0.0.1", port=8072),), poll_timeout=10.0),
        ExecWork(command=("redis-server", "--port", "0"), ready="notify"),
    ]
    assert [pool.name for pool in spec.pools] == ["http", "cron", "jobs", "push", "cache"]


def test_the_stop_timeout_of_the_daemon_is_the_default_of_every_pool(reading):
    more = '[pools.slow]\nkind = "exec"\ncommand = ["true"]\nstop_timeout = "5m"\n'
    spec = reading('[procman]\nstop_timeout = "10s"\n[database]\nurl = "embedded"\n' + HTTP + more)
    assert [pool.stop_timeout for pool in spec.pools] == [10.0, 10.0, 300.0]


class TestChannels:
    def reading(self, reading, channels):
        return reading(DATABASE + HTTP + f'[pools.jobs]\nkind = "jobrunner"\n{channels}\n').pool("jobs").work.channels

    def test_the_notation_of_oca(self, reading):
        channels = self.reading(reading, 'channels = """\n  root : 4,\n  mail:1:sequential:throttle=2\n"""')
        assert channels == (
            Channel(name="root", capacity=4),
            Channel(name="root.mail", sequential=True, throttle=2.0),
        )

    def test_tables(self, reading):
        channels = self.reading(
            reading,
            """
            [pools.jobs.channels]
            root = { capacity = 8, fair = { "prod_*" = 3, "*" = 1 }, per_database = { test = 0, "*" = 5 } }
            "root.mail" = 2
            slow = { throttle = "500ms", paused = true }
            [pools.jobs.channels."root.edi"]
            capacity = "none"
            capacity_default = 1
            sequential_default = true
            """,
        )
        assert channels == (
            Channel(
                name="root",
                capacity=8,
                fair=True,
                weights=(("prod_*", 3), ("*", 1)),
                per_database=(("test", 0), ("*", 5)),
            ),
            Channel(name="root.mail", capacity=2),
            Channel(name="root.slow", throttle=0.5, paused=True),
            Channel(name="root.edi", capacity=None, capacity_default=1, sequential_default=True),
        )

    def test_a_sequential_channel_needs_no_capacity(self, reading):
        channels = self.reading(reading, 'channels = { a = { sequential = true, capacity = "none" } }')
        assert channels == (Channel(name="root.a", capacity=1, sequential=True),)


class TestJobrunner:
    def test_the_target_is_the_only_http_pool_or_the_one_named(self, reading):
        admin = HTTP.replace("pools.http", "pools.admin").replace("8069", "8070")
        runner = '[pools.jobs]\nkind = "jobrunner"\ntarget = "admin"\n'
        work = reading(DATABASE + HTTP + admin + runner).pool("jobs").work
        assert work == JobrunnerWork(target="admin", addresses=(TcpAddress(host="127.0.0.1", port=8070),))

    def test_a_url_instead_of_a_target(self, reading):
        work = (
            reading(DATABASE + HTTP + '[pools.jobs]\nkind = "jobrunner"\nurl = "http://odoo:8069"\n').pool("jobs").work
        )
        assert work == JobrunnerWork(url="http://odoo:8069", queues=(JobQueue.QUEUE_JOB,))

    def test_whose_jobs_can_be_said(self, reading):
        work = reading(DATABASE + HTTP + '[pools.jobs]\nkind = "jobrunner"\nqueues = ["procman", "queue_job"]\n')
        assert work.pool("jobs").work.queues == (JobQueue.PROCMAN, JobQueue.QUEUE_JOB)

    def test_addresses_that_are_passed_at_start_are_left_out(self, reading):
        http = HTTP.replace('"127.0.0.1:8069"', '["fd:http", "127.0.0.1:8069"]')
        assert reading(DATABASE + http + '[pools.jobs]\nkind = "jobrunner"\n').pool("jobs").work.addresses == (ADDRESS,)

    @pytest.mark.parametrize(
        ("more", "left"),
        [
            ('certfile = "c.pem"', ["unix"]),
            ('trusted_proxies = "127.0.0.0/8"\nproxy_protocol = true', ["unix"]),
            ('trusted_proxies = "unix"\nproxy_protocol = true', ["tcp"]),
            ('trusted_proxies = "10.0.0.0/8"\nproxy_protocol = true', ["tcp", "unix"]),
            ('trusted_proxies = ["127.0.0.1", "unix"]', ["tcp", "unix"]),
        ],
    )
    def test_it_asks_where_plain_http_is_spoken_to_it(self, reading, directory, more, left):
        http = HTTP.replace('bind = "127.0.0.1:8069"', 'bind = ["127.0.0.1:8069", "unix:web.sock"]') + more + "\n"
        spec = reading(DATABASE + http + '[pools.jobs]\nkind = "jobrunner"\n')
        known = {"tcp": ADDRESS, "unix": UnixAddress(path=f"{directory}/web.sock")}
        assert spec.pool("jobs").work.addresses == tuple(known[one] for one in left)


class TestDatabase:
    def test_a_server_elsewhere(self, reading):
        spec = reading('[database]\nurl = "postgresql:///shop"\ndatabases = ["archive"]\n' + HTTP)
        assert spec.database == DatabaseSpec(url="postgresql:///shop", databases=("archive",))
        assert [pool.name for pool in spec.pools] == ["http"]

    def test_the_embedded_server_is_a_pool_that_all_others_wait_for(self, reading, directory):
        more = '[pools.other]\nkind = "exec"\ncommand = ["true"]\ndepends_on = ["http", "postgres"]\n'
        spec = reading('[database]\nurl = "embedded"\n' + HTTP + more)
        socket_dir = f"{directory}/var/postgres-socket"
        quoted = socket_dir.replace("/", "%2F")
        assert spec.database == DatabaseSpec(url=f"postgresql://procman@/procman?host={quoted}", embedded=True)
        assert spec.pools[0] == PoolSpec(
            name="postgres",
            kind=Kind.POSTGRES,
            work=PostgresWork(data_dir=f"{directory}/var/postgres", socket_dir=socket_dir),
            stop_signal="INT",
        )
        assert spec.pool("http").depends_on == ("postgres",)
        assert spec.pool("other").depends_on == ("postgres", "http")

    def test_the_environment_wins(self, reading):
        url = "postgresql:///other"
        assert reading(DATABASE + HTTP, PROCMAN_DATABASE_URL=url).database == DatabaseSpec(url=url)
        assert reading(HTTP, PROCMAN_DATABASE_URL=url).database == DatabaseSpec(url=url)
        embedded = reading(DATABASE + HTTP, PROCMAN_DATABASE_URL="embedded")
        assert (embedded.database.embedded, embedded.pools[0].name) == (True, "postgres")
        assert reading(DATABASE + HTTP, PROCMAN_DATABASE_URL="").database == DatabaseSpec(url="postgresql:///shop")

    def test_what_the_environment_overrides_need_not_be_usable(self, reading):
        url = "postgresql:///other"
        text = '[database]\nurl = "postgresql://shop:${SECRET}@host/shop"\n' + HTTP
        assert reading(text, PROCMAN_DATABASE_URL=url).database == DatabaseSpec(url=url)
        text = '[database]\ndatabases = ["archive"]\n' + HTTP
        assert reading(text, PROCMAN_DATABASE_URL=url).database == DatabaseSpec(url=url, databases=("archive",))

    def test_a_pool_named_postgres_without_the_embedded_server(self, reading):
        spec = reading('[pools.postgres]\nkind = "exec"\ncommand = ["postgres"]\n')
        assert spec.pool("postgres").kind is Kind.EXEC


class TestPlaces:
    DEEP = "/srv/" + "deep/" * 20 + "var"

    def test_in_the_state_directory(self):
        assert default_endpoint("control.sock", "/srv/var", {}) == "ipc:///srv/var/control.sock"
        assert postgres_socket_dir("/srv/var", {}) == "/srv/var/postgres-socket"

    def test_a_state_directory_too_deep_for_sockets_has_a_short_one_beside_it(self):
        control = default_endpoint("control.sock", self.DEEP, {})
        prefix = f"ipc:///tmp/procman-{os.getuid()}-"
        assert control.startswith(prefix)
        assert control == default_endpoint("control.sock", self.DEEP, {"XDG_RUNTIME_DIR": ""})
        assert control != default_endpoint("control.sock", self.DEEP + "2", {})
        digest = control.removeprefix(prefix).removesuffix("/control.sock")
        assert len(digest) == 12
        runtime = {"XDG_RUNTIME_DIR": "/run/user/7/"}
        name = f"procman-{os.getuid()}-{digest}"
        assert default_endpoint("control.sock", self.DEEP, runtime) == f"ipc:///run/user/7/{name}/control.sock"
        assert postgres_socket_dir(self.DEEP, runtime) == f"/run/user/7/{name}/postgres-socket"

    @pytest.mark.parametrize("runtime", ["relative", "/run/" + "long/" * 30])
    def test_a_runtime_directory_that_is_no_help(self, runtime):
        place = default_endpoint("control.sock", self.DEEP, {"XDG_RUNTIME_DIR": runtime})
        assert place.startswith("ipc:///tmp/procman-")

    def test_the_longest_that_fits(self):
        for length in (107, 108):
            state_dir = "/" + "x" * (length - len("/control.sock") - 1)
            inside = default_endpoint("control.sock", state_dir, {}).startswith(f"ipc://{state_dir}/")
            assert inside == (length == 107)

    def test_a_deep_file_is_read(self, tmp_path):
        deep = tmp_path / ("deep" * 20) / "er"
        deep.mkdir(parents=True)
        (deep / "procman.toml").write_text('[database]\nurl = "embedded"\n' + HTTP)
        spec = read(str(deep / "procman.toml"), {})
        assert len(spec.control[0].removeprefix("ipc://").encode()) <= 107
        assert spec.pools[0].work.data_dir == f"{spec.state_dir}/postgres"
        assert in_file(str(deep / "procman.toml"), {}) == spec.control[0]


class TestDashboard:
    TEXT = '[procman]\ndashboard = "unix:d.sock"\n' + HTTP

    def test_the_pool_it_adds(self, reading, directory):
        spec = reading(self.TEXT)
        assert spec.dashboard == f"unix:{directory}/d.sock"
        assert [pool.name for pool in spec.pools] == ["http", "dashboard"]
        pool = spec.pool("dashboard")
        work = pool.work
        assert (pool.kind, pool.workers, pool.depends_on, pool.working_dir) == (Kind.HTTP, 1, (), directory)
        assert (work.app, work.binds) == ("procman.dashboard:application", (UnixAddress(path=f"{directory}/d.sock"),))
        assert spec.control_read_only == (f"ipc://{directory}/var/monitor.sock",)
        assert dict(pool.env) == {"PROCMAN_ENDPOINT": spec.control_read_only[0]}
        assert (pool.user, pool.group) == (None, None)

    def test_it_runs_as_another_user_when_that_is_wanted(self, reading):
        pool = reading(self.TEXT.replace("[procman]\n", '[procman]\ndashboard_user = "nobody"\nread_only_group = 0\n'))
        assert (pool.pool("dashboard").user, pool.pool("dashboard").group) == ("nobody", "root")

    def test_without_it_there_is_no_endpoint_for_reading_unless_one_is_named(self, reading, directory):
        assert reading(HTTP).control_read_only == ()
        text = '[procman]\ncontrol_read_only = "ipc://m.sock"\n' + HTTP
        assert reading(text).control_read_only == (f"ipc://{directory}/m.sock",)

    def test_it_waits_for_no_database(self, reading):
        spec = reading('[database]\nurl = "embedded"\n' + self.TEXT)
        assert [pool.name for pool in spec.pools] == ["postgres", "http", "dashboard"]
        assert spec.pool("dashboard").depends_on == ()
        assert spec.pool("http").depends_on == ("postgres",)

    def test_it_does_not_run_jobs(self, reading):
        spec = reading(DATABASE + self.TEXT + '[pools.jobrunner]\nkind = "jobrunner"\n')
        assert spec.pool("jobrunner").work.target == "http"

    def test_others_may_wait_for_it(self, reading):
        assert reading(self.TEXT + 'depends_on = ["dashboard"]\n').pool("http").depends_on == ("dashboard",)

    def test_without_it_the_name_is_free(self, reading):
        spec = reading('[pools.dashboard]\nkind = "exec"\ncommand = ["true"]\n')
        assert spec.pool("dashboard").kind is Kind.EXEC

    def test_the_first_of_several_endpoints(self, reading, directory):
        text = self.TEXT.replace("[procman]\n", '[procman]\ncontrol_read_only = ["ipc://b.sock", "ipc://a.sock"]\n')
        assert dict(reading(text).pool("dashboard").env) == {"PROCMAN_ENDPOINT": f"ipc://{directory}/b.sock"}
