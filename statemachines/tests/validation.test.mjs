// AWS's validator, and rules of AWS that the validator does not know.

import assert from "node:assert/strict";
import { test } from "node:test";
import jsonata from "jsonata";
import asl from "amazon-states-language-service";
import { TextDocument } from "vscode-languageserver-textdocument";
import { job, jobNames, jobSource } from "./jobs.mjs";
import { forEachExpression } from "./simulator.mjs";

const validator = asl.getLanguageService({});

async function problems(text) {
  const document = TextDocument.create("file:///job.asl.json", "asl", 1, text);
  const found = await validator.doValidation(document, validator.parseJSONDocument(document), {});
  return found.map(({ message, range }) => `line ${range.start.line + 1}: ${message}`);
}

/** Returns the variables that a scope of a state machine assigns, without the scopes inside. */
function assignedIn(machine) {
  const rules = Object.values(machine.States).flatMap((state) => [
    state,
    ...(state.Choices ?? []),
    ...(state.Catch ?? []),
  ]);
  return new Set(rules.flatMap((rule) => Object.keys(rule.Assign ?? {})));
}

/** Names every variable that is assigned in a scope and also in a scope around it. */
function shadowedVariables(machine, outer = new Set()) {
  const own = assignedIn(machine);
  const shadowed = [...own].filter((name) => outer.has(name));
  const inside = Object.values(machine.States).flatMap((state) =>
    [state.ItemProcessor ?? [], state.Branches ?? []].flat(),
  );
  return [
    ...shadowed,
    ...inside.flatMap((scope) => shadowedVariables(scope, new Set([...outer, ...own]))),
  ];
}

test("there are jobs", () => {
  assert.ok(jobNames().length >= 4);
});

for (const name of jobNames()) {
  test(`${name}: AWS's validator finds no problem`, async () => {
    assert.deepEqual(await problems(jobSource(name)), []);
  });

  test(`${name}: every expression has the syntax of JSONata 2.0.6`, () => {
    forEachExpression(job(name), (text, path) => assert.doesNotThrow(() => jsonata(text), path));
  });

  test(`${name}: it runs in every partition`, () => {
    const text = jobSource(name, { Partition: "aws-us-gov" });
    assert.doesNotMatch(text, /arn:aws:/);
  });

  // https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html (Scope of variables)
  test(`${name}: no scope assigns a variable of a scope around it`, () => {
    assert.deepEqual(shadowedVariables(job(name)), []);
  });
}

test("AWS's validator finds a missing state", async () => {
  const text = jobSource("account/check").replace('"Next": "Check failed"', '"Next": "Missing"');
  assert.match((await problems(text)).join(), /must be the name of an existing state/);
});

test("a variable of the job that an item assigns again is found", () => {
  const machine = job("nodes/dispatch");
  machine.States["Run items"].ItemProcessor.States["Take item"].Assign.customer = "acme";
  assert.deepEqual(shadowedVariables(machine), ["customer"]);
});
