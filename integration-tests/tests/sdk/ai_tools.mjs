// Lets a model call tools through the AI SDK at every door that it has a provider for: OpenAI's chats and responses,
// Anthropic's messages and Ollama's chats, whole and streamed, with the turn that follows.
//
//     node ai_tools.mjs BASE_URL API_KEY MODEL…
//
// Each model says a word, calls `clock` and `weather` at once, and answers when it has their results.

import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, isStepCount, jsonSchema, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";

const [base, key, ...models] = process.argv.slice(2);
const said = "I look.";
const answer = "It is noon in Zürich, 3 °C.";
const called = [
  ["clock", { zone: "Europe/Zürich" }],
  ["weather", { city: "Zürich", days: 3 }],
];

const schema = (properties) =>
  jsonSchema({ type: "object", properties, required: Object.keys(properties), additionalProperties: false });
const tools = {
  clock: tool({
    description: "Tells the time.",
    inputSchema: schema({ zone: { type: "string" } }),
    execute: ({ zone }) => `12:00 in ${zone}`,
  }),
  weather: tool({
    description: "Tells the weather.",
    inputSchema: schema({ city: { type: "string" }, days: { type: "integer" } }),
    execute: ({ city, days }) => `3 °C in ${city} for ${days} days`,
  }),
};

const openai = createOpenAI({ baseURL: base, apiKey: key });
const root = base.replace(/\/v1$/, "");
const doors = {
  "chat of openai-compatible": createOpenAICompatible({ name: "mesh", baseURL: base, apiKey: key, includeUsage: true }),
  "chat of openai": openai.chat,
  "responses of openai": openai.responses,
  "messages of anthropic": createAnthropic({ baseURL: base, apiKey: key }),
  "chat of ollama": createOllama({ baseURL: `${root}/api`, headers: { authorization: `Bearer ${key}` } }),
};

const ask = (model) => ({
  model,
  tools,
  prompt: "What time is it, and how cold?",
  maxOutputTokens: 100,
  maxRetries: 0,
  stopWhen: isStepCount(3),
  // The mesh keeps no responses to refer to.
  providerOptions: { openai: { store: false } },
});

const check = (door, steps) => {
  assert.equal(steps.length, 2, `${door}: ${steps.length} steps`);
  const [calling, telling] = steps;
  assert.equal(calling.text.trim(), said, door);
  assert.deepEqual(calling.toolCalls.map((call) => [call.toolName, call.input]), called, door);
  assert.equal(new Set(calling.toolCalls.map((call) => call.toolCallId)).size, 2, door);
  assert.deepEqual(calling.toolResults.map((one) => one.output), ["12:00 in Europe/Zürich", "3 °C in Zürich for 3 days"], door);
  assert.equal(calling.finishReason, "tool-calls", door);
  assert.equal(telling.text, answer, door);
  assert.equal(telling.finishReason, "stop", door);
  for (const step of steps) {
    assert.ok(step.usage.inputTokens > 0 && step.usage.outputTokens > 0, `${door}: ${JSON.stringify(step.usage)}`);
  }
};

const whole = async (door, model) => check(door, (await generateText(ask(model))).steps);

const streamed = async (door, model) => {
  const errors = [];
  const result = streamText({ ...ask(model), onError: ({ error }) => errors.push(error) });
  const seen = {};
  for await (const part of result.fullStream) seen[part.type] = (seen[part.type] ?? 0) + 1;
  assert.deepEqual(errors, [], door);
  assert.equal(seen["tool-call"], 2, `${door}: ${JSON.stringify(seen)}`);
  // Two texts, each in pieces.
  assert.equal(seen["text-start"], 2, `${door}: ${JSON.stringify(seen)}`);
  assert.ok(seen["text-delta"] > 4, `${door}: ${JSON.stringify(seen)}`);
  check(door, await result.steps);
};

const plain = async (door, model) => {
  const result = streamText({ model, prompt: "What time is it?", maxOutputTokens: 100, maxRetries: 0 });
  const parts = [];
  for await (const part of result.textStream) parts.push(part);
  assert.equal(parts.join(""), answer, door);
  assert.ok(parts.length > 2, `${door}: ${parts.length} parts`);
  assert.equal(await result.finishReason, "stop", door);
};

for (const name of models) {
  for (const [door, provider] of Object.entries(doors)) {
    const told = `${name}, ${door}`;
    await whole(told, provider(name));
    await streamed(told, provider(name));
    await plain(told, provider(name));
  }
}
console.log("ai tools passed");
