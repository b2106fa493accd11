/**
 * Random numbers that can be had again: the seed is printed, and
 * `SEIKAN_TEST_SEED=N bun test …` repeats a run.
 */
export const SEED = Number(process.env.SEIKAN_TEST_SEED ?? Date.now() % 1_000_000_007);

let told = false;

/** A generator of numbers from 0 to below `limit`, from the printed seed. */
export function randomNumbers(): (limit: number) => number {
  if (!told) console.error(`random cuts from SEIKAN_TEST_SEED=${SEED}`);
  told = true;
  let state = SEED >>> 0 || 1;
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

/** `bytes` in two parts, once for every place between the first and the last byte. */
export function* splits(bytes: Buffer): Generator<[Buffer, Buffer]> {
  for (let at = 0; at <= bytes.length; at++) yield [bytes.subarray(0, at), bytes.subarray(at)];
}

export function byteByByte(bytes: Buffer): Buffer[] {
  return Array.from(bytes, (byte) => Buffer.of(byte));
}

/** `bytes` cut at a few random places. */
export function cutAtRandom(bytes: Buffer, random: (limit: number) => number): Buffer[] {
  const count = 1 + random(Math.min(8, bytes.length));
  const places = [...new Set(Array.from({ length: count }, () => random(bytes.length + 1)))].sort((a, b) => a - b);
  const edges = [0, ...places, bytes.length];
  return edges.slice(1).map((end, index) => bytes.subarray(edges[index], end));
}
