// Reads the schema of the provider hashicorp/aws out of the npm package @cdktn/provider-aws (MPL-2.0), which was
// generated from it, and writes schema.json.gz in the form of `terraform providers schema -json`.
// How to run it: README.md.
//
// The package has one JavaScript file per type. What is read of each:
//   class X extends cdktn.TerraformResource | TerraformDataSource | TerraformProvider   the type itself
//   class Y extends cdktn.ComplexObject                                                 an object within it
//   // name - computed: false, optional: true, required: false                          an attribute and its behaviour
//   = new YList(this, "name", true)  |  = new YOutputReference(this, "name")            its objects: set or list | one
//   this.getNumberAttribute('name'), cdktn.Fn.tolist(...)                               its type, where nobody can set it
//   synthesizeHclAttributes() and yToHclTerraform()                                     its type, where somebody can
//   cdktn.listMapper(yToTerraform, true)                                                a block; with false an attribute
//
// The package does not know which attributes are sensitive, write-only or replace the resource, the limits of blocks
// beyond one and none, defaults and validations.

import fs from 'node:fs';
import path from 'node:path';
import zlib from 'node:zlib';

const [library, ...rest] = process.argv.slice(2);
if (!library || rest.length > 0) {
  console.error('usage: node extract.mjs DIRECTORY   (the unpacked package, the directory with package.json)');
  process.exit(2);
}
const here = import.meta.dirname;
const address = 'registry.terraform.io/hashicorp/aws';

// stored has the package's names of types, as it writes them for attributes that can be set.
const stored = {
  string: 'string', number: 'number', boolean: 'bool', any: 'dynamic',
  stringList: ['list', 'string'], numberList: ['list', 'number'], booleanList: ['list', 'bool'],
  stringMap: ['map', 'string'], numberMap: ['map', 'number'], booleanMap: ['map', 'bool'],
  stringListList: ['list', ['list', 'string']], stringListMap: ['map', ['list', 'string']],
  stringMapList: ['list', ['map', 'string']], stringMapMap: ['map', ['map', 'string']],
};

// getters are the same for attributes that can only be read: this.get<name>Attribute(...).
const getters = {
  String: 'string', Number: 'number', Boolean: 'bool', Any: 'dynamic',
  List: ['list', 'string'], NumberList: ['list', 'number'],
  StringMap: ['map', 'string'], NumberMap: ['map', 'number'], BooleanMap: ['map', 'bool'],
};

const computedMaps = {
  'cdktn.StringMap': ['map', 'string'], 'cdktn.NumberMap': ['map', 'number'], 'cdktn.BooleanMap': ['map', 'bool'],
  'cdktn.StringMapList': ['list', ['map', 'string']],
};

const settable = /^ +(\w+): \{\n +value: .*\n +isBlock: (true|false),\n +type: "(\w+)",\n +storageClassType: "(\w+)",\n/gm;

// parse returns the classes of a file by name: what each extends, and its members by the attribute's name.
function parse(file) {
  const source = fs.readFileSync(file, 'utf8').replace(/^\/\/# sourceMappingURL=.*$/m, '');
  const functions = new Map(); // by name in lower case, without ToHclTerraform
  for (const [, name, body] of source.matchAll(/^function (\w+)ToHclTerraform\(struct\) \{\n([\s\S]*?)^\}\n/gm)) {
    functions.set(name.toLowerCase(), body);
  }
  const blocks = new Map(); // by the function that converts one: whether it is a block
  for (const [, name, isBlock] of source.matchAll(/listMapper\((\w+)ToTerraform, (true|false)\)/g)) {
    blocks.set(name.toLowerCase(), isBlock === 'true');
  }
  const classes = new Map();
  for (const part of source.split(/^(?=class \w+ extends cdktn\.)/m)) {
    const head = part.match(/^class (\w+) extends cdktn\.(\w+) \{/);
    if (!head) continue;
    const [, name, base] = head;
    const own = part.match(/^    synthesizeHclAttributes\(\) \{\n([\s\S]*?)^    \}\n/m)?.[1];
    const text = own ?? functions.get(name.replace(/OutputReference$/, '').toLowerCase()) ?? '';
    const types = new Map();
    for (const [, attribute, , kind, type] of text.matchAll(settable)) types.set(attribute, { kind, type });
    const members = new Map();
    for (const member of part.split(/^    \/\/ (?=\w+ - computed: )/m).slice(1)) {
      const [, attribute, computed, optional, required] =
        member.match(/^(\w+) - computed: (true|false), optional: (true|false), required: (true|false)\n/);
      const behaviour = {};
      if (computed === 'true') behaviour.computed = true;
      if (optional === 'true') behaviour.optional = true;
      if (required === 'true') behaviour.required = true;
      const created = member.match(/ = new ([\w.]+)\(this, ["']\w+["'](?:, (true|false))?\);/);
      const got = member.match(/this\.get(\w*?)Attribute\(/)?.[1];
      members.set(attribute, {
        behaviour, created: created?.[1], got, declared: types.get(attribute),
        set: created?.[2] === 'true' || types.get(attribute)?.kind === 'set' || member.includes('cdktn.Fn.tolist('),
      });
    }
    classes.set(name, { base, members });
  }
  return { source, classes, blocks };
}

// objects tells the class of an attribute's objects, and whether there is at most one; undefined for other attributes.
function objects(member) {
  const name = member.created ?? (stored[member.declared?.type] ? undefined : member.declared?.type);
  if (!name || name.startsWith('cdktn.')) return undefined;
  return { name: name.replace(/(OutputReference|List|Map)$/, ''), one: name.endsWith('OutputReference') };
}

// valueType is the type of an attribute, in the JSON form of cty.
function valueType(file, member, where) {
  const of = objects(member);
  let type;
  if (of) {
    const fields = {};
    for (const [name, field] of find(file, of.name, where).members) fields[name] = valueType(file, field, `${where}.${name}`);
    const object = ['object', fields];
    return member.declared?.kind === 'struct' ? object : [member.set ? 'set' : 'list', object];
  }
  if (member.declared) type = stored[member.declared.type];
  else if (member.created) type = computedMaps[member.created];
  else if (member.got !== undefined) type = getters[member.got];
  if (!type) throw new Error(`${where}: type is not known: ${JSON.stringify(member)}`);
  return member.set && type[0] === 'list' ? ['set', type[1]] : type;
}

function find(file, name, where) {
  const found = file.classes.get(name + 'OutputReference') ?? file.classes.get(name);
  if (!found) throw new Error(`${where}: there is no class ${name}`);
  return found;
}

// block is the schema of a class's members.
function block(file, members, where) {
  const attributes = {}, block_types = {};
  for (const [name, member] of members) {
    const of = objects(member);
    const inner = `${where}.${name}`;
    const isBlock = of && !member.behaviour.computed && (of.one || (file.blocks.get(of.name.toLowerCase()) ?? true));
    if (!isBlock) {
      attributes[name] = { type: valueType(file, member, inner), ...member.behaviour };
      continue;
    }
    const single = member.declared?.kind === 'struct';
    const nested = { nesting_mode: single ? 'single' : member.set ? 'set' : 'list', block: block(file, find(file, of.name, inner).members, inner) };
    if (member.behaviour.required) nested.min_items = 1;
    if (of.one && !single) nested.max_items = 1;
    block_types[name] = nested;
  }
  const result = {};
  if (Object.keys(attributes).length) result.attributes = attributes;
  if (Object.keys(block_types).length) result.block_types = block_types;
  return result;
}

const manifest = JSON.parse(fs.readFileSync(path.join(library, 'package.json'), 'utf8'));
const output = {
  format_version: '1.0',
  provider_schemas: { [address]: { provider: {}, resource_schemas: {}, data_source_schemas: {} } },
};
const schemas = output.provider_schemas[address];
let version;
const types = fs.readFileSync(path.join(here, 'types.txt'), 'utf8').split('\n')
  .map((line) => line.replace(/#.*/, '').trim()).filter(Boolean);
for (const type of types) {
  const data = type.startsWith('data.');
  const name = type.replace(/^data\./, '');
  const directory = (data ? `data-${name}` : name.replace(/^aws_/, '')).replaceAll('_', '-');
  const file = parse(path.join(library, 'lib', directory, 'index.js'));
  if (file.source.match(/tfResourceType = "(\w+)"/)[1] !== name) throw new Error(`${type}: ${directory} has another type`);
  const is = file.source.match(/providerVersion: '([\d.]+)'/)[1];
  version ??= is;
  if (version !== is) throw new Error(`${type}: generated from ${is}, others from ${version}`);
  const main = [...file.classes.values()].find(({ base }) => base === (data ? 'TerraformDataSource' : 'TerraformResource'));
  (data ? schemas.data_source_schemas : schemas.resource_schemas)[name] = { version: 0, block: block(file, main.members, type) };
}

// The members of the provider's class have no types, and blocks are not created: all is in what is synthesized.
// alias is no attribute of the provider but an argument of the language.
const file = parse(path.join(library, 'lib', 'provider', 'index.js'));
const configuration = { attributes: {}, block_types: {} };
const fields = (text) => {
  const attributes = {};
  for (const [, name, , kind, type] of text.matchAll(settable)) {
    const of = stored[type];
    if (of && name !== 'alias') attributes[name] = { type: kind === 'set' ? ['set', of[1]] : of, optional: true };
  }
  return attributes;
};
const text = file.source.match(/^    synthesizeHclAttributes\(\) \{\n([\s\S]*?)^    \}\n/m)[1];
configuration.attributes = fields(text);
for (const [, name, , kind, type] of text.matchAll(settable)) {
  if (stored[type]) continue;
  const converter = type.replace(/List$/, '') + 'ToHclTerraform';
  const body = file.source.match(new RegExp(`^function ${converter}\\(struct\\) \\{\\n([\\s\\S]*?)^\\}\\n`, 'mi'))[1];
  configuration.block_types[name] = { nesting_mode: kind === 'set' ? 'set' : 'list', block: { attributes: fields(body) } };
}
schemas.provider = { version: 0, block: configuration };

const json = JSON.stringify({ ...output, generated_from: { package: `${manifest.name}@${manifest.version}`, provider_version: version } });
fs.writeFileSync(path.join(here, 'schema.json.gz'), zlib.gzipSync(json, { level: 9 }));
console.log(`${types.length} types of hashicorp/aws ${version}, ${json.length} bytes`);
