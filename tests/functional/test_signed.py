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

"""Signed images: kept as uploaded, and verified by Glance itself."""

import base64
import datetime
import pathlib
import uuid

from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography import x509
import pytest

from tests.functional import keys
from tests.functional import support

NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'signer')])


class Signer:
    """Signs, and leaves its certificate where Glance finds it."""

    def __init__(self, folder):
        self._key = rsa.generate_private_key(public_exponent=65537,
                                             key_size=2048)
        self._certificate_id = str(uuid.uuid4())
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder().subject_name(NAME).issuer_name(NAME)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(1))
            .not_valid_after(now + datetime.timedelta(1))
            .sign(self._key, hashes.SHA256()))
        (folder / self._certificate_id).write_bytes(
            certificate.public_bytes(serialization.Encoding.DER))

    def properties(self, data):
        """The properties of an image of this data."""
        signature = self._key.sign(data, padding.PSS(
            padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH),
            hashes.SHA256())
        return {'img_signature': base64.b64encode(signature).decode(),
                'img_signature_hash_method': 'SHA-256',
                'img_signature_key_type': 'RSA-PSS',
                'img_signature_certificate_uuid': self._certificate_id}


@pytest.fixture(scope='module')
def certificates(tmp_path_factory):
    return tmp_path_factory.mktemp('certificates')


@pytest.fixture
def signer(certificates, configure, monkeypatch):
    """Glance inherits where the key manager and its certificates are."""
    root = pathlib.Path(__file__).parents[2]
    monkeypatch.setenv('PYTHONPATH', str(root))
    monkeypatch.setenv(keys.FOLDER, str(certificates))
    configure(key_manager={
        'backend': 'tests.functional.keys.FolderKeyManager'},
        DEFAULT={'debug': True})
    return Signer(certificates)


@pytest.mark.parametrize('store', ['ceph', 'files', 'local'])
def test_a_signed_image_is_kept_and_verified(glance, images, signer, store):
    qcow2, _ = images.qcow2('signed')
    image = glance.imported(qcow2, stores=(store,),
                            **signer.properties(qcow2.read_bytes()))
    assert image['disk_format'] == 'qcow2'
    assert image['os_hash_value'] == support.digests(qcow2)[1]
    glance.expect_message(image['id'], 'it is signed')
    log = glance.cloud.glance.log.read_text()
    assert f'Successfully verified signature for image {image["id"]}' in log


@pytest.mark.parametrize('store', ['ceph', 'files'])
def test_a_wrong_signature_is_refused(glance, images, signer, store):
    qcow2, _ = images.qcow2('signed')
    image_id = glance.begin(qcow2, stores=(store,),
                            **signer.properties(b'something else'))
    assert glance.finish(image_id)['status'] != 'active'
    assert glance.task(image_id)['status'] == 'failure'
    # Its owner has it back, to be uploaded and imported again.
    assert glance.show(image_id)['status'] == 'queued'
    assert glance.staged() == []
    assert glance.stored() == []
    glance.stage(image_id, qcow2)
    glance.start_import(image_id, (store,))
    assert glance.finish(image_id)['status'] == 'queued'
    assert glance.staged() == []
