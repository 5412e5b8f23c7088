// Runs a state machine of this folder as Step Functions would, with functions in place of its tasks.
//
// Expressions are evaluated with JSONata 2.0.6, the version that Step Functions uses. As in Step
// Functions, an expression without a result fails, a variable belongs to the scope that assigns
// it, and the items of a distributed Map see no variables of the job.
// https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html
// https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html

import { readFileSync } from "node:fs";
import jsonata from "jsonata";

/** The maximum size of the input and the output of a state, in bytes. */
export const STATE_LIMIT = 262_144;

/** The maximum number of transitions of one simulated execution. */
const MAX_TRANSITIONS = 10_000;

const EXPRESSION = /^\{%(.*)%\}$/s;

/** An error that a state reports, as a task's function throws it. */
export class StateError extends Error {
  constructor(error, cause) {
    super(`${error}: ${cause}`);
    this.error = error;
    this.causeText = cause;
  }
}

/** Reads a job's source with the values that the template substitutes. */
export function readSource(url, values = {}) {
  const all = {
    Partition: "aws",
    StackName: "stepward",
    StepNames: "ec2-start s3-list",
    ...values,
  };
  const source = readFileSync(url, "utf8");
  return source.replaceAll(/\$\{(\w+)\}/g, (text, name) => {
    if (!(name in all)) throw new Error(`${url}: the template has no value for ${text}`);
    return all[name];
  });
}

/** Calls `visit` with every string of a state machine that is an expression. */
export function forEachExpression(value, visit, path = "$") {
  if (typeof value === "string") {
    const expression = EXPRESSION.exec(value);
    if (expression) visit(expression[1], path);
  } else if (value && typeof value === "object") {
    for (const [key, child] of Object.entries(value))
      forEachExpression(child, visit, `${path}.${key}`);
  }
}

export class Simulator {
  /**
   * `tasks(resource, arguments, state)` returns the result of a task, or throws a StateError. A
   * distributed Map gets its items from `tasks("items", arguments, state)`.
   */
  constructor(machine, tasks) {
    this.machine = machine;
    this.tasks = tasks;
    /** The expressions that were evaluated. */
    this.evaluated = new Set();
    /** The bytes of the largest output of a state. */
    this.largestOutput = 0;
    this.transitions = 0;
  }

  /** Runs the job. Returns its output, or throws the StateError that it fails with. */
  async run(input) {
    const context = {
      Execution: {
        Id: "arn:aws:states:eu-west-1:111111111111:execution:job:run",
        Name: "run",
        Input: input,
      },
      StateMachine: { Id: "arn:aws:states:eu-west-1:111111111111:stateMachine:job", Name: "job" },
    };
    return this.#runStates(this.machine, input, [{}], context);
  }

  async #runStates(machine, input, scopes, context) {
    let name = machine.StartAt;
    for (;;) {
      if (++this.transitions > MAX_TRANSITIONS)
        throw new Error(`no end after ${MAX_TRANSITIONS} transitions`);
      const state = machine.States[name];
      const step = await this.#runState(name, state, input, scopes, context);
      this.largestOutput = Math.max(this.largestOutput, this.#checkSize(name, step.output));
      if (step.next === undefined) return step.output;
      input = step.output;
      name = step.next;
    }
  }

  #checkSize(name, output) {
    const size = Buffer.byteLength(JSON.stringify(output ?? null));
    if (size > STATE_LIMIT)
      throw new StateError("States.DataLimitExceeded", `${name}: ${size} bytes`);
    return size;
  }

  async #runState(name, state, input, scopes, context) {
    const states = { input, context: { ...context, State: { Name: name, RetryCount: 0 } } };
    const evaluate = (template, more = {}) =>
      this.#evaluate(template, { ...states, ...more }, scopes, name);
    /** Evaluates Assign and Output, in that order: Output sees the variables before the assignment. */
    const finish = async (rules, output, next, more) => {
      const assigned = rules.Assign ? await evaluate(rules.Assign, more) : {};
      const result = "Output" in rules ? await evaluate(rules.Output, more) : output;
      Object.assign(scopes.at(-1), assigned);
      return { output: result, next };
    };
    switch (state.Type) {
      case "Pass":
        return finish(state, input, state.Next);
      case "Succeed":
        return finish(state, input, undefined);
      case "Wait": {
        const seconds = await evaluate(state.Seconds);
        if (!Number.isInteger(seconds) || seconds < 0)
          throw new Error(`${name}: waits ${seconds} seconds`);
        return finish(state, input, state.Next);
      }
      case "Choice": {
        for (const choice of state.Choices) {
          const holds = await evaluate(choice.Condition);
          if (typeof holds !== "boolean")
            throw new Error(`${name}: a condition is ${JSON.stringify(holds)}`);
          if (holds) return finish(choice, input, choice.Next);
        }
        return finish(state, input, state.Default);
      }
      case "Fail": {
        const error = await evaluate(state.Error);
        const cause = await evaluate(state.Cause ?? "");
        for (const text of [error, cause]) {
          if (typeof text !== "string")
            throw new Error(`${name}: expected a text, got ${JSON.stringify(text)}`);
        }
        throw new StateError(error, cause);
      }
      case "Task":
      case "Map":
        try {
          const result = await (state.Type === "Task"
            ? this.#runTask(name, state, evaluate)
            : this.#runMap(name, state, evaluate, scopes, context));
          return await finish(state, result, state.Next, { result });
        } catch (error) {
          if (!(error instanceof StateError)) throw error;
          const rule = state.Catch?.find(({ ErrorEquals: names }) =>
            names.some((each) => each === error.error || each === "States.ALL"),
          );
          if (!rule) throw error;
          const errorOutput = { Error: error.error, Cause: error.causeText };
          return await finish(rule, errorOutput, rule.Next, { errorOutput });
        }
      default:
        throw new Error(`${name}: the simulator does not know the type ${state.Type}`);
    }
  }

  async #runTask(name, state, evaluate) {
    const result = await this.tasks(state.Resource, await evaluate(state.Arguments), name);
    this.#checkSize(name, result);
    return structuredClone(result);
  }

  async #runMap(name, state, evaluate, scopes, context) {
    const isDistributed = state.ItemProcessor.ProcessorConfig?.Mode === "DISTRIBUTED";
    if ("MaxConcurrency" in state) await evaluate(state.MaxConcurrency);
    const items = state.ItemReader
      ? await this.tasks("items", await evaluate(state.ItemReader.Arguments), name)
      : await evaluate(state.Items);
    const results = [];
    for (const [index, value] of items.entries()) {
      const itemContext = { ...context, Map: { Item: { Index: index, Value: value } } };
      const itemStates = { context: itemContext };
      const input = state.ItemSelector ? await evaluate(state.ItemSelector, itemStates) : value;
      const itemScopes = isDistributed ? [{}] : [...scopes, {}];
      try {
        results.push(await this.#runStates(state.ItemProcessor, input, itemScopes, itemContext));
      } catch (error) {
        if (!isDistributed || !(error instanceof StateError)) throw error;
        results.push({ Error: error.error, Cause: error.causeText });
      }
    }
    if (!state.ResultWriter) return results;
    return this.tasks(
      "results",
      { ...(await evaluate(state.ResultWriter.Arguments)), results },
      name,
    );
  }

  async #evaluate(template, states, scopes, place) {
    if (typeof template === "string") {
      const expression = EXPRESSION.exec(template);
      return expression ? this.#evaluateExpression(expression[1], states, scopes, place) : template;
    }
    if (Array.isArray(template)) {
      return Promise.all(template.map((each) => this.#evaluate(each, states, scopes, place)));
    }
    if (template && typeof template === "object") {
      const fields = {};
      for (const [key, value] of Object.entries(template)) {
        fields[key] = await this.#evaluate(value, states, scopes, place);
      }
      return fields;
    }
    return template;
  }

  async #evaluateExpression(text, states, scopes, place) {
    this.evaluated.add(text);
    const expression = jsonata(text);
    // Step Functions has $parse in place of $eval.
    expression.registerFunction("parse", (json) => JSON.parse(json), "<s:x>");
    expression.registerFunction("eval", () => {
      throw new Error("Step Functions has no $eval");
    });
    const variables = Object.assign({ states }, ...scopes);
    let result;
    try {
      result = await expression.evaluate(undefined, variables);
    } catch (error) {
      throw new StateError(
        "States.QueryEvaluationError",
        `${place}: ${error.message} in {%${text}%}`,
      );
    }
    if (result === undefined) {
      throw new StateError(
        "States.QueryEvaluationError",
        `${place}: nothing results from {%${text}%}`,
      );
    }
    // Results of JSONata are arrays with properties of their own; only JSON leaves a state.
    return JSON.parse(JSON.stringify(result));
  }
}
