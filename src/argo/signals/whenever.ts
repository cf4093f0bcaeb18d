/** Goes on with a value that may be there already: what promises nothing stays free of promises. */
export function onceThere<T, R>(
  value: T | Promise<T>,
  use: (value: T) => R | Promise<R>,
): R | Promise<R> {
  return value instanceof Promise ? value.then(use) : use(value);
}
