// Checks dashboards of Grafana, and resources of the Prometheus operator, against the types that others publish:
// node check.mjs FILE.json ... prints a line for each mistake, and exits with 1 when there is one.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { Ajv } from "ajv";
import { createGenerator } from "ts-json-schema-generator";

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const types = createGenerator({
  path: here("types.ts"),
  tsconfig: here("tsconfig.json"),
  skipTypeCheck: true, // of the package's own declarations
  topRef: false,
  expose: "none", // some names stand for two types, which can not both be a definition
  additionalProperties: false, // a name that the types do not know is a mistake
});
const ajv = new Ajv({ allErrors: true, strict: false }); // not strict: the generator adds keywords of its own

const validators = new Map();
let mistakes = 0;

function check(type, value, where) {
  if (!validators.has(type)) {
    validators.set(type, ajv.compile(types.createSchema(type)));
  }
  const validate = validators.get(type);
  if (!validate(value)) {
    for (const { instancePath, message, params } of validate.errors) {
      mistakes += 1;
      console.error(`${where}${instancePath}: ${message} ${JSON.stringify(params)}`);
    }
  }
}

function checkDashboard(dashboard, file) {
  check("Dashboard", dashboard, file);
  for (const { type, title, options, fieldConfig } of dashboard.panels.filter((panel) => panel.type !== "row")) {
    // The dashboard's type says nothing of what is a matter of the kind of panel.
    const prefix = type[0].toUpperCase() + type.slice(1);
    check(`${prefix}Options`, options, `${file}: ${title}: options`);
    if (fieldConfig.defaults.custom) {
      check(`${prefix}Fields`, fieldConfig.defaults.custom, `${file}: ${title}: custom`);
    }
  }
}

for (const file of process.argv.slice(2)) {
  const content = JSON.parse(readFileSync(file, "utf8"));
  if (content.kind) {
    check(content.kind, content, file);
  } else {
    checkDashboard(content, file);
  }
}
process.exitCode = mistakes ? 1 : 0;
