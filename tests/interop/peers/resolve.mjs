// The published package is meant for bundlers: its imports have no ".js".
// Node needs them, so this adds what is missing.
import { register } from "node:module";

register("data:text/javascript," + encodeURIComponent(`
export async function resolve(specifier, context, next) {
  try {
    return await next(specifier, context);
  } catch (e) {
    if (e.code !== "ERR_MODULE_NOT_FOUND" || !specifier.startsWith(".")) throw e;
    return next(specifier + ".js", context);
  }
}`));
