// Drives a mesh with the AI SDK and its OpenAI-compatible provider, the client of several editors and agents:
// chat, streaming, embeddings and errors, and the list of models that they read.
//
//     node ai_sdk.mjs BASE_URL API_KEY

import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateText, streamText } from "ai";

const [base, key] = process.argv.slice(2);
const provider = (apiKey) =>
  createOpenAICompatible({ name: "mesh", baseURL: base, apiKey, includeUsage: true });
const mesh = provider(key);
const question = { prompt: "Why is the sky blue?", temperature: 0, seed: 7, maxOutputTokens: 16, maxRetries: 0 };

const listed = await (await fetch(`${base}/models`, { headers: { authorization: `Bearer ${key}` } })).json();
const names = listed.data.map((model) => model.id);
for (const name of ["mesh/code", "mesh-code", "mesh/embed", "tiny-trained", "tiny-embed"]) {
  assert.ok(names.includes(name), `${name} is not in ${names}`);
}

const whole = await generateText({ model: mesh("mesh/code"), ...question });
assert.ok(whole.text.length > 0);
assert.equal(whole.usage.outputTokens, 16);
assert.equal(whole.finishReason, "length");
assert.equal(whole.response.headers["x-mesh-model"], "tiny-trained");
assert.equal(whole.response.headers["x-mesh-mode"], "code");

const streamed = streamText({ model: mesh("mesh-code"), ...question });
const parts = [];
for await (const part of streamed.textStream) parts.push(part);
assert.ok(parts.length > 8, `there were ${parts.length} parts`);
assert.equal((await streamed.usage).outputTokens, 16);
assert.equal(await streamed.finishReason, "length");

const { embeddings } = await embedMany({
  model: mesh.embeddingModel("mesh/embed"),
  values: ["a list", "zwölf Würfel 🎲"],
  maxRetries: 0,
});
assert.equal(embeddings.length, 2);
assert.ok(embeddings[0].length > 16 && embeddings[0].length === embeddings[1].length);
assert.notDeepEqual(embeddings[0], embeddings[1]);

const failsWith = (status, code) => (error) => {
  assert.ok(APICallError.isInstance(error), error);
  assert.equal(error.statusCode, status);
  assert.equal(JSON.parse(error.responseBody).error.code, code);
  return true;
};
const ask = (apiKey, model) => generateText({ model: provider(apiKey)(model), ...question });
await assert.rejects(ask("mk_nobody_nothing", "mesh/code"), failsWith(401, "invalid_api_key"));
await assert.rejects(ask(key, "mesh/cod"), failsWith(404, "model_not_found"));
const errors = [];
const refused = streamText({ model: mesh("mesh/cod"), ...question, onError: ({ error }) => errors.push(error) });
await refused.consumeStream({ onError: () => {} });
assert.equal(errors.length, 1);
failsWith(404, "model_not_found")(errors[0]);

console.log("ai passed");
