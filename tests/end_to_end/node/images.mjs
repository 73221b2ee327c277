// OpenAI's own Node SDK, unmodified but for the base URL. Prints what it was answered as one line of JSON.
import OpenAI, { toFile } from "openai";

const [baseURL, apiKey, picture, hole] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const small = { model: "gpt-image-1", quality: "low", size: "256x256" };

const bytes = async (base64, name) => toFile(Buffer.from(base64, "base64"), name, { type: "image/png" });
const refusal = async (ask) => ask().then(() => null, (error) => ({ kind: error.constructor.name, code: error.code }));

const generated = await client.images.generate({ ...small, prompt: "a red circle on a blue background" });
const edited = await client.images.edit({
  ...small, prompt: "a yellow circle", image: await bytes(picture, "a.png"), mask: await bytes(hole, "m.png"),
});
const together = await client.images.edit({
  ...small, prompt: "make the background green",
  image: [await bytes(picture, "a.png"), await bytes(picture, "b.png")],
});
const streams = [];
for (const partial_images of [1, 2, 3]) {
  const events = [];
  const stream = await client.images.generate({
    ...small, quality: "medium", prompt: "a red circle on a blue background", stream: true, partial_images,
  });
  for await (const event of stream) events.push({ type: event.type, picture: event.b64_json });
  streams.push(events);
}

const chat = {
  model: "gpt-4o-image",
  messages: [{
    role: "user",
    content: [
      { type: "image_url", image_url: { url: `data:image/png;base64,${picture}` } },
      { type: "text", text: "make the background green" },
    ],
  }],
};
const answered = await client.chat.completions.create(chat);
let said = "";
for await (const chunk of await client.chat.completions.create({ ...chat, stream: true })) {
  said += chunk.choices[0]?.delta.content ?? "";
}

console.log(JSON.stringify({
  generated: generated.data[0].b64_json,
  edited: edited.data[0].b64_json,
  together: together.data[0].b64_json,
  streams,
  answered: answered.choices[0].message.content,
  said,
  refused: await refusal(() => client.images.generate({ ...small, prompt: "a cat", background: "transparent" })),
  unknown: await refusal(() => new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 }).images.generate({ prompt: "a" })),
}));
