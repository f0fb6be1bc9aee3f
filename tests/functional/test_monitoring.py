#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""What Prometheus itself makes of the metrics and of the rules."""

import contextlib
import json
import pathlib
import subprocess
import urllib.error
import urllib.parse
import urllib.request

from cloud import processes
import pytest

from tests.functional import support

RULES = (pathlib.Path(__file__).resolve().parents[2] / 'contrib'
         / 'monitoring' / 'glance-conversion.rules.yaml')


@pytest.fixture(scope='module')
def programs(tmp_path_factory):
    """Prometheus of the distribution, unpacked.

    Installed, it would run as a service from now on.
    """
    folder = tmp_path_factory.mktemp('prometheus')
    download = ['apt-get', '--quiet', 'download', 'prometheus']
    if subprocess.run(download, cwd=folder, timeout=120).returncode:
        # Where nothing had to be installed, no list of packages is there.
        processes.run_as_root('apt-get', '--quiet', 'update')
        subprocess.run(download, cwd=folder, check=True, timeout=120)
    package, = folder.glob('prometheus_*.deb')
    subprocess.run(['dpkg-deb', '--extract', package, folder / 'root'],
                   check=True)
    return folder / 'root' / 'usr' / 'bin'


@contextlib.contextmanager
def running(command, log, **kwargs):
    with open(log, 'w') as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                   stdout=out, stderr=out, **kwargs)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


class Server:
    """Prometheus, by its API."""

    def __init__(self, port):
        self._port = port

    def get(self, path, **query):
        """What it answers; None where it does not yet."""
        asked = f'{path}?{urllib.parse.urlencode(query)}'
        with (contextlib.suppress(urllib.error.URLError, ConnectionError),
              urllib.request.urlopen(
                  f'http://127.0.0.1:{self._port}/api/v1/{asked}',
                  timeout=5) as reply):
            return json.load(reply)['data']
        return None

    def value(self, expression):
        found = (self.get('query', query=expression) or {}).get('result')
        return float(found[0]['value'][1]) if found else None


def test_the_rules_do_what_they_are_for(programs):
    for command, path in (('check', RULES), ('test', str(RULES).replace(
            '.rules.', '.test.'))):
        done = subprocess.run([programs / 'promtool', command, 'rules', path],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert 'SUCCESS' in done.stdout + done.stderr


def test_prometheus_scrapes_the_agent(glance, images, programs, tmp_path):
    port, own_port = (glance.cloud.settings.port(number)
                      for number in (60, 61))
    path, _ = images.qcow2('scraped')
    glance.imported(path)
    configuration = tmp_path / 'prometheus.yml'
    configuration.write_text(f'''
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{RULES}]
scrape_configs:
  - job_name: glance-conversion
    static_configs: [{{targets: ['127.0.0.1:{port}']}}]
''')
    commands = support.Commands(glance, tmp_path)
    commands.configure(conversion_agent={'metrics_port': port})
    server = Server(own_port)
    with (running(commands.command('glance-conversion-agent'),
                  tmp_path / 'agent.log'),
          running([programs / 'prometheus', f'--config.file={configuration}',
                   f'--storage.tsdb.path={tmp_path / "data"}',
                   f'--web.listen-address=127.0.0.1:{own_port}'],
                  tmp_path / 'prometheus.log')):
        counted = support.wait_for(lambda: server.value(
            'sum(glance_conversion_imports_total{outcome="converted",'
            'format="qcow2",container="bare"})'), 60,
            what=(tmp_path / 'prometheus.log').read_text)
        assert counted >= 1
        assert server.value('up{job="glance-conversion"}') == 1
        assert server.value(
            'histogram_quantile(0.99, sum by (le) ('
            'glance_conversion_import_seconds_bucket))') > 0
        # The label that the rules go by.
        assert support.wait_for(lambda: server.value(
            'glance_conversion_agent_passes_total{exported_job="cleanup",'
            'result="ok"}'), 60) >= 1
        rules = [rule for group in server.get('rules')['groups']
                 for rule in group['rules']]
        assert len(rules) == 7
        assert {rule['health'] for rule in rules} == {'ok'}
