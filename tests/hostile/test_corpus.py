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



"""Images that mean harm, images that are damaged, and images that are well.

Each goes through the whole data path. What it accepts is what qemu-img makes
of the image, byte for byte; what it refuses leaves nothing.
"""

import collections

import pytest

from tests.hostile import corpus
from tests.hostile import path as path_


def test_corpus_is_large_and_of_every_format():
    assert len({case.name for case in corpus.CASES}) == len(corpus.CASES)
    assert all(case.words for case in corpus.CASES if case.outcome)
    good = collections.Counter(case.disk_format for case in corpus.CASES
                               if not case.outcome)
    bad = collections.Counter(case.disk_format for case in corpus.CASES
                              if case.outcome)
    assert good.total() >= 40
    assert bad.total() >= 150
    for disk_format in ('qcow2', 'raw', 'vdi', 'vhd', 'vhdx', 'vmdk'):
        assert good[disk_format] >= 3
        assert bad[disk_format] >= 10


@pytest.mark.parametrize(
    'case', corpus.CASES, ids=[case.name for case in corpus.CASES])
def test_case(case, tmp_path):
    before = path_.children()
    image = case.build(tmp_path)
    sink = path_.FileSink(tmp_path / 'result')
    if case.outcome is None:
        path_.convert(image, case.disk_format, sink)
        assert sink.sealed
        expected = tmp_path / 'expected'
        assert path_.reference(image, case.disk_format, expected)
        assert path_.same(sink.path, expected)
    else:
        with pytest.raises(case.outcome, match=case.words) as caught:
            path_.convert(image, case.disk_format, sink)
        path_.assert_presentable(caught.value, tmp_path)
        assert not sink.sealed
        assert sink.aborted or not sink.created
        assert not sink.path.exists()
    assert path_.children() <= before
