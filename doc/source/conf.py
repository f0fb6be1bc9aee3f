# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""Sphinx configuration of the documentation."""

project = 'glance-conversion-plugins'
project_copyright = 'the glance-conversion-plugins contributors'

extensions = [
    'openstackdocstheme',
    'oslo_config.sphinxext',
]

# The theme would otherwise derive the name from the git remote.
openstackdocs_auto_name = False
openstackdocs_auto_version = False

root_doc = 'index'
exclude_patterns = []
pygments_style = 'native'
html_theme = 'openstackdocs'
html_static_path = ['_static']
html_css_files = ['stacked.css']
html_theme_options = {'sidebar_search': True}
# The license of this package, in place of the theme's.
templates_path = ['_templates']
