from passl_simsiam.tasks.session import Session
def show_views(session, data): pass
def write_report(session, monitor): pass
