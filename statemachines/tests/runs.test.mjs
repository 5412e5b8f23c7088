// Every job, run with functions in place of its tasks. Together the runs evaluate every expression.

import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { job, jobNames } from "./jobs.mjs";
import { Simulator, StateError, forEachExpression, STATE_LIMIT } from "./simulator.mjs";

/** The expressions that the runs evaluated, by job. */
const evaluated = new Map(jobNames().map((name) => [name, new Set()]));

/** Runs a job. `functions` maps the name of a function to what it returns for a payload. */
async function run(name, input, functions, { results } = {}) {
  const calls = [];
  const tasks = async (resource, args) => {
    if (resource === "items") return functions.items(args);
    if (resource === "results") return results(args);
    assert.equal(resource, "arn:aws:states:::lambda:invoke");
    const called = args.FunctionName.replace(/^stepward-/, "");
    // What reaches a function is JSON: fields without a value are missing.
    const payload = JSON.parse(JSON.stringify(args.Payload));
    calls.push({ called, payload });
    const respond = functions[called];
    assert.ok(respond, `the job calls ${called}`);
    return { Payload: await respond(payload), StatusCode: 200 };
  };
  const simulator = new Simulator(job(name), tasks);
  try {
    const output = await simulator.run(input);
    return { output, calls, simulator };
  } catch (error) {
    if (!(error instanceof StateError)) throw error;
    return { error: error.error, cause: error.causeText, calls, simulator };
  } finally {
    simulator.evaluated.forEach((text) => evaluated.get(name).add(text));
  }
}

/** An error as Lambda reports it to Step Functions. */
const failure = (error, message) =>
  new StateError(error, JSON.stringify({ errorType: error, errorMessage: message }));

/** A function that throws. */
const fails = (error) => () => {
  throw error;
};

/** A function that is pending on its first call of each item and done on the next. */
function pendingOnce(output) {
  return ({ resume }) =>
    resume
      ? { status: "done", output: typeof output === "function" ? output() : output }
      : { status: "pending", retry_after: 5, progress: "1 of 2", resume: { since: 1, state: {} } };
}

/** As many accounts of a customer. */
const accounts = (count) =>
  Array.from({ length: count }, (_, index) => ({
    account: `account-${index}`,
    account_id: String(100_000_000_000 + index),
    regions: ["eu-west-1", "us-east-1"],
  }));

describe("account/check", () => {
  const validate = (respond) =>
    run(
      "account/check",
      { customer: "acme", account: "prod" },
      { "validate-credentials": respond },
    );

  test("the output is the step's output", async () => {
    const { output, calls } = await validate(() => ({ status: "done", output: { proven: true } }));
    assert.deepEqual(output, { proven: true });
    assert.equal(calls[0].payload.execution.started_by, "states/job");
  });

  test("a failure has the message of the step", async () => {
    const message = 'role "a\\b" refused\n';
    const { error, cause } = await validate(fails(failure("AccessDenied", message)));
    assert.deepEqual([error, cause], ["AccessDenied", message]);
  });

  test("a cause that is not JSON is passed on", async () => {
    const { error, cause } = await validate(fails(new StateError("Lambda.Unknown", "no JSON")));
    assert.deepEqual([error, cause], ["Lambda.Unknown", "no JSON"]);
  });

  test("a missing cause is named", async () => {
    const { cause } = await validate(fails(new StateError("States.Timeout", undefined)));
    assert.equal(cause, "No cause was given.");
  });
});

describe("step/run", () => {
  const runStep = (options, functions = {}, names = ["prod"]) =>
    run("step/run", { customer: "acme", accounts: names, options, started_by: "ann" }, functions);

  test("a pending step is called again with its resume state", async () => {
    const { output, calls } = await runStep(
      { step: "ec2-start", params: { ids: ["i-1"] }, region: "eu-west-1" },
      { "ec2-start": pendingOnce({ started: 1 }) },
    );
    assert.deepEqual(output, { started: 1 });
    assert.equal(calls.length, 2);
    assert.ok(!("resume" in calls[0].payload));
    assert.deepEqual(calls[1].payload.resume, { since: 1, state: {} });
    assert.deepEqual(calls[1].payload.target, {
      customer: "acme",
      account: "prod",
      region: "eu-west-1",
    });
  });

  test("a failed step fails the job with its error", async () => {
    const { error, cause } = await runStep(
      { step: "s3-list" },
      { "s3-list": fails(failure("NotFound", "no bucket")) },
    );
    assert.deepEqual([error, cause], ["NotFound", "no bucket"]);
  });

  for (const [what, options, names, expected] of [
    ["two accounts", { step: "s3-list" }, ["a", "b"], /exactly one account, got 2/],
    ["an unknown option", { step: "s3-list", other: 1 }, ["a"], /expected step, params and region/],
    ["another function", { step: "dispatch" }, ["a"], /there is no step "dispatch"/],
    ["no step", {}, ["a"], /there is no step ""/],
  ]) {
    test(`${what}: nothing is called`, async () => {
      const { error, cause, calls } = await runStep(options, {}, names);
      assert.equal(error, "InvalidInput");
      assert.match(cause, expected);
      assert.deepEqual(calls, []);
    });
  }
});

describe("fleet/morning-check", () => {
  const check = (functions, list = accounts(2)) =>
    run(
      "fleet/morning-check",
      { customer: "acme", options: { tags: { env: "test" } } },
      {
        accounts: () => ({ accounts: list }),
        "validate-credentials": () => ({ status: "done", output: {} }),
        "ec2-start": pendingOnce({ started: 1 }),
        "athena-query": pendingOnce({ rows: [] }),
        ...functions,
      },
    );

  test("every account succeeds", async () => {
    const { output, calls } = await check({});
    assert.equal(output.outcome, "succeeded");
    assert.deepEqual(output.accounts[1].start_instances, { started: 1 });
    const query = calls.find(({ called }) => called === "athena-query");
    assert.equal(query.payload.params.bucket, "stepward-results-100000000000");
  });

  test("one failed account does not stop the others", async () => {
    const respond = ({ target }) => {
      if (target.account === "account-0") throw failure("AccessDenied", "no role");
      return { status: "done", output: {} };
    };
    const { output } = await check({ "validate-credentials": respond });
    assert.deepEqual([output.outcome, output.succeeded, output.failed], ["partial", 1, 1]);
    assert.equal(output.accounts[0].message, "no role");
  });

  for (const step of ["ec2-start", "athena-query"]) {
    test(`the failure of ${step} in every account fails the job`, async () => {
      const { error, cause } = await check({ [step]: fails(failure("Throttled", "slow down")) });
      assert.equal(error, "Throttled");
      assert.equal(JSON.parse(cause).failed, 2);
    });
  }

  test("different errors of the accounts are one error of the job", async () => {
    let call = 0;
    const { error } = await check({
      "validate-credentials": () => fails(failure(`Error${call++}`, "no"))(),
    });
    assert.equal(error, "StepFailed");
  });

  test("an unknown option fails the job before anything is called", async () => {
    const input = { customer: "acme", options: { tag: {} } };
    const { error, cause, calls } = await run("fleet/morning-check", input, {});
    assert.equal(error, "InvalidInput");
    assert.match(cause, /tag/);
    assert.deepEqual(calls, []);
  });

  test("an unknown customer fails the job", async () => {
    const { error, cause } = await check({ accounts: fails(failure("NotFound", "no customer")) });
    assert.deepEqual([error, cause], ["NotFound", "no customer"]);
  });

  for (const count of [1, 40, 700]) {
    test(`the results of ${count} accounts fit into one output`, async () => {
      // The largest output that a step returns without storing it, in characters of three bytes.
      const large = () => ({
        rows: ["€".repeat(16_000)],
        artifact: { bucket: "b".repeat(60), key: "k".repeat(200) },
        console_url: "u".repeat(200),
      });
      const respond = ({ target }) => {
        if (target.account.endsWith("7")) throw failure("AccessDenied", "€".repeat(9000));
        return { status: "done", output: {} };
      };
      const { output, simulator } = await check(
        {
          "validate-credentials": respond,
          "ec2-start": pendingOnce({ instances: "€".repeat(3900) }),
          "athena-query": pendingOnce(large),
        },
        accounts(count),
      );
      assert.equal(output.accounts.length, count);
      assert.ok(simulator.largestOutput < STATE_LIMIT, `${simulator.largestOutput} bytes`);
      const { query } = output.accounts[0];
      assert.equal(query.shortened, true);
      assert.equal("artifact" in query, count <= 40, "the location is named while there is room");
    });
  }
});

describe("nodes/dispatch", () => {
  const call = (by) => ({
    function:
      by === "ecs"
        ? "stepward-ecs-exec"
        : by === "ssm"
          ? "stepward-ssm-run-command"
          : "stepward-ec2-start",
    step: "run",
    params: {},
    by,
  });
  const item = (place, ...kinds) => ({
    id: `0-${place}`,
    target: { customer: "acme", account: "account-0" },
    calls: kinds.map(call),
  });
  const stored = { artifact: { key: "artifacts/x" } };

  /** Runs one round of items. */
  async function dispatch({
    items = [],
    options = {},
    keepgoing = true,
    outcome = "succeeded",
    functions = {},
  }) {
    let written;
    const ran = await run(
      "nodes/dispatch",
      { customer: "acme", options },
      {
        accounts: () => ({ accounts: accounts(2) }),
        "ec2-nodes": pendingOnce(stored),
        "ecs-nodes": pendingOnce(stored),
        dispatch: ({ do: action }) => {
          if (action === "may_begin") return { may_begin: true };
          if (action === "plan" && items.length > 0) {
            return {
              round: 0,
              items: items.length,
              concurrency: 5,
              bucket: "b",
              key: "k",
              results: "r",
              keepgoing,
            };
          }
          return { items: 0, summary: { outcome, succeeded: 1, failed: 0 } };
        },
        items: () => items,
        "ssm-run-command": pendingOnce({ ...stored, failed: 0 }),
        "ecs-exec": pendingOnce({ ...stored, status: "succeeded" }),
        "ec2-start": pendingOnce(stored),
        ...functions,
      },
      {
        results: ({ results }) => {
          written = results;
          return { ResultWriterDetails: { Bucket: "b", Key: "r/manifest.json" } };
        },
      },
    );
    return {
      ...ran,
      written,
      searched: ran.calls.filter(({ called }) => called.endsWith("-nodes")),
    };
  }

  test("sources search the regions that the accounts and the options allow", async () => {
    const { output, searched } = await dispatch({
      options: { regions: ["us-east-1"], sources: ["ec2", "ec2"], ec2: { running: true } },
    });
    assert.equal(output.outcome, "succeeded");
    assert.deepEqual(searched[0].payload.params, { regions: ["us-east-1"], running: true });
    assert.equal(searched.length, 4, "two accounts, each pending once");
    const { searched: all } = await dispatch({ options: { regions: ["all"] } });
    assert.deepEqual(all[0].payload.params.regions, ["eu-west-1", "us-east-1"]);
  });

  test("the nodes of an earlier execution are not searched again", async () => {
    const { searched } = await dispatch({ options: { failed_of: "earlier" } });
    assert.deepEqual(searched, []);
  });

  test("a failed source is reported to the plan", async () => {
    const { calls } = await dispatch({
      functions: { "ecs-nodes": fails(failure("Throttled", "slow down")) },
    });
    const plan = calls.find(({ payload }) => payload.do === "plan").payload;
    assert.deepEqual(plan.found[1], {
      account: "account-0",
      source: "ecs",
      error: "Throttled",
      message: "slow down",
    });
    assert.ok(!("sources" in plan.options));
  });

  test("an item calls its steps in order, and keeps where their outputs are", async () => {
    const { written } = await dispatch({ items: [item(0, "ssm"), item(1, "ecs", "step")] });
    assert.deepEqual(written[0], { item: "0-0", began: true, calls: [stored] });
    assert.deepEqual(written[1], { item: "0-1", began: true, calls: [stored, stored] });
  });

  test("a failed command ends its item", async () => {
    const { written, calls } = await dispatch({
      items: [item(0, "ecs", "step")],
      keepgoing: false,
      functions: {
        "ecs-exec": () => ({ status: "done", output: { ...stored, status: "failed" } }),
      },
    });
    assert.deepEqual(written[0].calls, [stored]);
    assert.ok(calls.some(({ payload }) => payload.do === "stop"));
    assert.ok(!calls.some(({ called }) => called === "ec2-start"));
  });

  test("an error of a call fails its item and names what may have run", async () => {
    let polled = false;
    const respond = ({ resume }) => {
      polled ||= Boolean(resume);
      if (resume) throw failure("Internal", "€".repeat(3000));
      return { status: "pending", retry_after: 0, resume: { since: 1 } };
    };
    const { written } = await dispatch({
      items: [item(0, "ssm")],
      functions: { "ssm-run-command": respond },
    });
    assert.ok(polled);
    const cause = JSON.parse(written[0].Cause);
    assert.deepEqual(
      [written[0].Error, cause.called_before, cause.message.length],
      ["Internal", true, 2000],
    );
  });

  test("no item begins after a failure", async () => {
    const { written } = await dispatch({
      items: [item(0, "ssm")],
      keepgoing: false,
      functions: {
        dispatch: ({ do: action }) =>
          action === "plan"
            ? {
                round: 0,
                items: 1,
                concurrency: 1,
                bucket: "b",
                key: "k",
                results: "r",
                keepgoing: false,
              }
            : action === "may_begin"
              ? { may_begin: false }
              : { items: 0, summary: { outcome: "failed" } },
      },
    });
    assert.deepEqual(written[0], { item: "0-0", began: false });
  });

  test("a job whose nodes all failed fails", async () => {
    const { error, cause } = await dispatch({ outcome: "failed" });
    assert.equal(error, "StepFailed");
    assert.equal(JSON.parse(cause).customer, "acme");
  });

  test("a refusal has its message", async () => {
    const { error, cause } = await dispatch({
      functions: { dispatch: fails(failure("InvalidInput", "filter: no")) },
    });
    assert.deepEqual([error, cause], ["InvalidInput", "filter: no"]);
  });
});

after(() => {
  for (const [name, texts] of evaluated) {
    forEachExpression(job(name), (text, path) =>
      assert.ok(texts.has(text), `${name}: no run evaluates ${path}`),
    );
  }
});
