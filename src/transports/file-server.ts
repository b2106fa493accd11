import { mkdtemp, readdir, realpath, rm, stat } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join, relative, resolve, sep } from "node:path";
import serveStatic from "serve-static";
import { tcpTarget, type Target } from "../core/address.ts";
import { usageError } from "../core/errors.ts";
import { escapeHtml } from "../core/html.ts";
import type { Scope } from "../core/scope.ts";

/**
 * Serves the files of a folder over HTTP, to this process alone: on a socket
 * in a folder of its own. Hidden files are not served, nor what links lead to
 * outside of the folder; a listing only if asked for.
 */
export async function serveFiles(directory: string, listing: boolean, scope: Scope): Promise<Target> {
  const isFolder = await stat(directory).then(
    (found) => found.isDirectory(),
    () => false,
  );
  if (!isFolder) throw usageError(`file:${directory}: there is no such folder`);
  const files = serveStatic(directory, { dotfiles: "ignore", fallthrough: false });
  const server = createServer((request, response) => {
    if (request.method !== "GET" && request.method !== "HEAD") return refuse(response);
    const fail = (error: unknown) => void failed(directory, listing, request, response, error);
    void leadsOut(directory, request.url ?? "/").then((isOut) =>
      isOut ? notThere(response) : files(request, response, fail),
    );
  });
  const target = await place(scope);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  if (target.kind === "unix") server.listen(target.path, resolve);
  else server.listen(0, "127.0.0.1", resolve);
  await promise;
  scope.own(() => server.close());
  const bound = server.address();
  return typeof bound === "object" && bound !== null ? tcpTarget("127.0.0.1", bound.port) : target;
}

/** True when a link on the path leads out of the folder. */
async function leadsOut(directory: string, url: string): Promise<boolean> {
  const path = decoded(url.split("?", 1)[0]!);
  if (path === undefined || path.includes("\0")) return true;
  try {
    const [root, real] = await Promise.all([realpath(directory), realpath(resolve(directory, `.${path}`))]);
    return real !== root && !real.startsWith(root + sep);
  } catch {
    // It is not there: that is found out soon enough.
    return false;
  }
}

function notThere(response: ServerResponse): void {
  response.writeHead(404, { "Content-Type": "text/plain; charset=utf-8" }).end("not found\n");
}

function refuse(response: ServerResponse): void {
  response.writeHead(405, { Allow: "GET, HEAD", "Content-Type": "text/plain" }).end("files can only be read\n");
}

/** Where no unix sockets are: a port of loopback. */
async function place(scope: Scope): Promise<Target> {
  if (process.platform === "win32") return tcpTarget("127.0.0.1", 0);
  const folder = await mkdtemp(join(tmpdir(), "seikan-files-"));
  scope.own(() => rm(folder, { recursive: true, force: true }));
  return { kind: "unix", path: join(folder, "socket") };
}

async function failed(
  directory: string,
  listing: boolean,
  request: IncomingMessage,
  response: ServerResponse,
  error: unknown,
): Promise<void> {
  const status = (error as { status?: number } | undefined)?.status ?? 404;
  // What may not be read is not there.
  if (status !== 404 && status !== 403) return void response.writeHead(status, { "Content-Type": "text/plain" }).end();
  const folder = listing ? folderOf(directory, request.url ?? "/") : undefined;
  const entries = folder === undefined ? undefined : await entriesOf(folder);
  if (entries === undefined) return notThere(response);
  const links = entries
    .map((name) => `<li><a href="${encodeURIComponent(name).replace(/%2F$/, "/")}">${escapeHtml(name)}</a>`)
    .join("\n");
  const page = `<!doctype html><meta charset="utf-8"><title>Files</title><ul>\n<li><a href="../">../</a>\n${links}</ul>`;
  response
    .writeHead(200, { "Content-Type": "text/html; charset=utf-8", "X-Content-Type-Options": "nosniff" })
    .end(page);
}

/** The folder of a path that ends with a slash; undefined outside of what is served. */
function folderOf(directory: string, url: string): string | undefined {
  const path = decoded(url.split("?", 1)[0]!);
  if (path === undefined || !path.endsWith("/") || path.includes("\0")) return undefined;
  const folder = join(directory, path);
  const inside = relative(directory, folder);
  const isHidden = inside.split(sep).some((part) => part.startsWith("."));
  return isHidden ? undefined : folder;
}

function decoded(path: string): string | undefined {
  try {
    return decodeURIComponent(path);
  } catch {
    return undefined;
  }
}

async function entriesOf(folder: string): Promise<string[] | undefined> {
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    const shown = entries.filter(({ name }) => !name.startsWith("."));
    return shown.map((entry) => (entry.isDirectory() ? `${entry.name}/` : entry.name)).sort();
  } catch {
    return undefined;
  }
}
