/** The real `ws`: Bun replaces the name by a WebSocket of its own. */
declare module "*/node_modules/ws/wrapper.mjs" {
  export { WebSocket, WebSocketServer } from "ws";
}
